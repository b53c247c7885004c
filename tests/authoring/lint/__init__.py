"""Tests of ``db lint``."""
