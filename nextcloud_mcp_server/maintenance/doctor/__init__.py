"""Check a database and everything beside it."""
