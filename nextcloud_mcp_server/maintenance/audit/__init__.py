"""The audit log of a database: list it, and verify it and the secrets that it names."""
