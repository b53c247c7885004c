"""Secrets stay secret: where they are searched for, and the modes of the files that hold them."""
