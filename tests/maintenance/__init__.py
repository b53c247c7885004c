"""Work on a database file: back up, restore, rehearse, repair, diagnose."""
