"""Mending what the doctor calls mendable."""
