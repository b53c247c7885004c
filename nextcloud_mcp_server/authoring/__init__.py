"""Write a migration: create, renumber, lint."""
