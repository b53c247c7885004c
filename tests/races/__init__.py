"""Many starts at once, in many processes and in one."""
