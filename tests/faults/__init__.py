"""Faults that a machine can produce, produced at every file operation."""
