"""The commands of the group keys, one file each; each imports what it needs when it is run."""
