"""Copy a database to another engine, complete and compared, or not at all."""
