"""Tests of creating, renumbering and checking migrations."""
