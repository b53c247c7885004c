"""Read the few words of a command that only looks, without click.

click takes longer to import than a look takes. What is typed exactly as the examples are is
read here; anything else, and every mistake, is click's. A test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from nextcloud_mcp_server.cli.output import Output

#: Carries out a look and answers the status to exit with.
Look = Callable[[Output], int]

_LOOKS: Final = frozenset({"current", "check"})

_PATH: Final = frozenset({"-d", "--database-path"})


def asked(typed: Sequence[str]) -> Look | None:
    """The look that was asked for; None where click has to read what was typed.

    Args:
        typed: what stands after the program's name.
    """
    group, command, *_ = [*typed, "", ""]
    if group != "db" or command not in _LOOKS:
        return None
    path: str | None = None
    rest = iter(typed[2:])
    for word in rest:
        if word == "--json":
            continue
        path = next(rest, None) if word in _PATH and path is None else None
        if path is None or path.startswith("-"):
            return None
    return lambda output: _look(command, path, output)


def _look(command: str, path: str | None, output: Output) -> int:
    from nextcloud_mcp_server.cli.database import Named  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.cli.db import current  # noqa: PLC0415 - what is not asked is not imported

    return output.alone(lambda: getattr(current, command)(output, Named(path))) or 0
