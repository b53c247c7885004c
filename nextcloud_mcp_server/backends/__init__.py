"""One protocol for units of work, one package an engine."""
