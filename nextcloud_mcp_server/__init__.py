"""Keeps Nextcloud grants in a database that migrates itself when the server starts."""
