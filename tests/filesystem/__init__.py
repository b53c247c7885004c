"""Files, locks, permissions, mounts and space."""
