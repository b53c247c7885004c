"""Benchmarks: each figure is compared with a baseline in the same round (``nox -s bench``)."""
