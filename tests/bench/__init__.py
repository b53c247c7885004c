"""How fast it is, each figure against what it stands on, in the same round: ``nox -s bench``."""
