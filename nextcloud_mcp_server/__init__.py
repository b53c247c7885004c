"""Keeps Nextcloud grants in a database that migrates itself when the server starts."""

#: The version of the project, here and nowhere else: the build reads it from this line.
__version__ = "1.0.0"
