"""Batch APIs: what a batch may cost, what travels with it, and what its results say it did cost. Pure."""
