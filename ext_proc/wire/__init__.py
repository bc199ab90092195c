"""Messages generated from proto/; do not edit."""
