"""The site is complete and its examples run."""
