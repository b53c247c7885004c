"""Tests of reading and verifying the audit log."""
