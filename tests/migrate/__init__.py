"""Tests of a start, from the inspection to the journal, and of downgrades and stamps."""
