"""Starts and stops the whole stack."""
