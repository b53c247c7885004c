"""Tables, structures and the revision history, as data."""
