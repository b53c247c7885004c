"""The store and its concerns, on a real database."""
