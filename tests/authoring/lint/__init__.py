"""What ``db lint`` refuses, notes, and lets pass."""
