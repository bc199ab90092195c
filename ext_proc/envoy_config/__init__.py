"""Typed Envoy configuration, rendered to files."""
