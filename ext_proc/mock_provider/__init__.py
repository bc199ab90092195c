"""The deterministic provider of the tests."""
