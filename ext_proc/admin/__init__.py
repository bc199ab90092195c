"""The admin HTTP API and the live table. It runs in the supervisor and reads Redis, never worker memory."""
