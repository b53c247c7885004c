"""Shared helpers: facts about released schemas, builders of databases, checks."""
