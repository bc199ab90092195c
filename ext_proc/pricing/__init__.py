"""Usage × rates → charge."""
