"""Concurrent starts on one database, in many processes and in one."""
