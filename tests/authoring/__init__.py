"""Writing a migration: create, renumber, lint."""
