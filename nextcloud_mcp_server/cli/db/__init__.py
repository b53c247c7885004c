"""The db commands, one file each."""
