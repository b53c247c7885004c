"""The site: built strict, complete, and with examples that run."""
