"""One module per provider API."""
