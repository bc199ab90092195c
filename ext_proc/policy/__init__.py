"""Policy: documents a person writes, compiled to the snapshot a request asks."""
