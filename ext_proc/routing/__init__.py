"""Routing: downgrade swaps; virtual models and target health."""
