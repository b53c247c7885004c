"""What ``db lint`` refuses and notes in the migrations; the rules are one table."""
