"""Tests of copying a database to another engine."""
