"""Databases as released versions left them, and a start on each."""
