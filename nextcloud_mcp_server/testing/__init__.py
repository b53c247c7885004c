"""The parts of the pytest fixtures; imported when a test uses one, not before."""
