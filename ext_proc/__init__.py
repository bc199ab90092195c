"""Tollgate: spend control for LLM traffic that flows through Envoy."""

__version__ = "0.1.0"
