"""The revisions: what each makes, keeps, loses, and survives."""
