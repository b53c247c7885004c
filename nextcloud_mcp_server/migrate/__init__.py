"""The start: inspect a database, plan, back up, migrate, verify."""
