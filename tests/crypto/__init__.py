"""The key ring and the key file."""
