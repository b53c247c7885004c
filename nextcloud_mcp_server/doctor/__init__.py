"""What ails a token database: small checks that look and change nothing."""
