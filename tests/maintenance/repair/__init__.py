"""Tests of the repair."""
