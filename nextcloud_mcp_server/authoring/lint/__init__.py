"""Check the migration scripts."""
