"""The client of a stock Nextcloud: files, notes, calendars, tasks, contacts and the login."""
