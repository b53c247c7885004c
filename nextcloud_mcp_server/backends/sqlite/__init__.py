"""SQLite: its files, lock, transactions, backups and pool."""
