"""PostgreSQL, beside what the contract demands of every engine."""
