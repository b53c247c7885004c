"""The encryption keys of a database: which secrets they open, and their rotation."""
