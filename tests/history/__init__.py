"""Every shape that a token database has in the field, and what a start does with each."""
