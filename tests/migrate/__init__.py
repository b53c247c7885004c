"""The start, from a look at the database to the open store."""
