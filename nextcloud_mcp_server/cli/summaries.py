"""What ``db --help`` says, so that it need not import the commands that it lists."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import click

#: Every ``db`` command, in the words of its docstring; a test holds them together.
SUMMARIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "backup": "Make a verified copy of the database, in use or not.",
        "backups": "List the backups beside the database, newest first.",
        "check": "Exit 0 where it is ready, 3 where an upgrade is pending.",
        "current": "Say at which revision the database is; change nothing.",
        "doctor": "Say what ails the database, worst first.",
        "downgrade": "Go back one revision or more (emergency use only).",
        "history": "List the revisions and what each changes.",
        "lint": "Say what is wrong with the migrations.",
        "log": "Show the journal of migrations, newest first.",
        "migrate": "Write an empty migration (in a checkout only).",
        "repair": "Mend what 'db doctor' calls mendable.",
        "restore": "Put a backup in the place of the database.",
        "show": "Print the SQL of one revision.",
        "stamp": "Record a revision without running anything.",
        "upgrade": "Create the database or bring it to head.",
    }
)

_EPILOG: Final = """
\b
Examples:
  nextcloud-mcp-server db current
  nextcloud-mcp-server db upgrade -d /path/to/tokens.db
  nextcloud-mcp-server db downgrade --revision 009
  nextcloud-mcp-server db migrate "add user preferences table"

Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 an upgrade is pending (check only).
Every refusal has a code, which docs/errors.md explains.
"""


class DatabaseCommands(click.Group):
    """``nextcloud-mcp-server db``, which imports its commands when one of them is run."""

    def __init__(self) -> None:
        """Make the group as it is shown."""
        super().__init__(
            "db",
            help="Look at the token database, upgrade it, go back, back it up.",
            epilog=_EPILOG,
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, as they are listed."""
        return sorted(SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, with everything that it imports."""
        from nextcloud_mcp_server.cli.db import db_commands  # noqa: PLC0415 - see above

        return db_commands.get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, shortened as click shortens them."""
        names = self.list_commands(ctx)
        room = formatter.width - 6 - max(map(len, names))
        with formatter.section("Commands"):
            formatter.write_dl([(name, _shortened(SUMMARIES[name], room)) for name in names])


def _shortened(text: str, room: int) -> str:
    return click.Command(None, help=text).get_short_help_str(room)
