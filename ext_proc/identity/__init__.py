"""Who is calling: caller and tags."""
