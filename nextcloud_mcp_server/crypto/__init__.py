"""Encryption keys: the key ring and the key file."""
