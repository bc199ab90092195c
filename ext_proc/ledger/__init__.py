"""The promises about money: interface, model, Redis."""
