"""The soak: mixed traffic for an hour while parts of the stack are killed, and then the books. `./dev soak` runs it."""
