"""What the values of options have to be."""

from __future__ import annotations

import click


def not_empty(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty value, which is most often a shell variable that is not set."""
    if value is not None and not value.strip():
        raise click.BadParameter("it is empty.", param=parameter)
    return value
