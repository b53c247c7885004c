"""Parse ``db current`` and ``db check`` without click, which takes longer to import than they run.

Only the documented spellings are parsed here. Anything else, and every mistake, is left to
click. A test verifies that both parse the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from nextcloud_mcp_server.cli.output import Output

#: Runs a command and returns its exit status.
Command = Callable[[Output], int]

_COMMANDS: Final = frozenset({"current", "check"})

_PATH: Final = frozenset({"-d", "--database-path"})


def parse(arguments: Sequence[str]) -> Command | None:
    """Return the command that ``arguments`` name; None if click has to parse them."""
    group, name, *_ = [*arguments, "", ""]
    if group != "db" or name not in _COMMANDS:
        return None
    path: str | None = None
    rest = iter(arguments[2:])
    for argument in rest:
        if argument == "--json":
            continue
        path = next(rest, None) if argument in _PATH and path is None else None
        if path is None or path.startswith("-"):
            return None
    return lambda output: _run(name, path, output)


def _run(name: str, path: str | None, output: Output) -> int:
    from nextcloud_mcp_server.cli.database import DatabaseOption  # noqa: PLC0415 - not for click
    from nextcloud_mcp_server.cli.db import current  # noqa: PLC0415 - not for click

    return output.run(lambda: getattr(current, name)(output, DatabaseOption(path))) or 0
