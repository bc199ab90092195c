"""Every metric and log name."""
