"""The admission and settlement machines: pure, joined by the ticket."""
