"""Tests of the census of keys and of their rotation."""
