"""The client of Nextcloud, against the stand-in and, where one is given, a real Nextcloud."""
