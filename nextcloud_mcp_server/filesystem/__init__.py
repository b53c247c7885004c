"""What the operating system allows: files, locks, permissions, mounts, space."""
