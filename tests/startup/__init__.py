"""The path that a start travels."""
