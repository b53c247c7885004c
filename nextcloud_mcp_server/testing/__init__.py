"""What the pytest fixtures are made of; imported when a test asks for one, never before."""
