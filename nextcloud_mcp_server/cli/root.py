"""The command line as click sees it: the server's options, and the commands under it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import click

from nextcloud_mcp_server import __version__
from nextcloud_mcp_server.cli.options import not_empty
from nextcloud_mcp_server.cli.output import PROGRAM, Output

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8000

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

_DB_EPILOG: Final = """
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
            epilog=_DB_EPILOG,
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, as they are listed."""
        return sorted(SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, with everything that it imports."""
        from nextcloud_mcp_server.cli.db.group import db_commands  # noqa: PLC0415 - see above

        return db_commands.get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, shortened as click shortens them."""
        names = self.list_commands(ctx)
        room = formatter.width - 6 - max(map(len, names))
        with formatter.section("Commands"):
            formatter.write_dl([(name, _shortened(SUMMARIES[name], room)) for name in names])


def _shortened(text: str, room: int) -> str:
    return click.Command(None, help=text).get_short_help_str(room)


_EPILOG: Final = """
\b
Examples:
  nextcloud-mcp-server                 serve on 127.0.0.1:8000
  nextcloud-mcp-server --port 9000     serve on another port
  nextcloud-mcp-server db current      say which revision the database is at
"""

_PORT: Final = click.IntRange(0, 65535)
_HOST_HELP: Final = f"The address to listen on.  [default: {DEFAULT_HOST}]"
_PORT_HELP: Final = f"The port to listen on; 0 for any free one.  [default: {DEFAULT_PORT}]"


def _version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if not value:
        return
    click.echo(f"{PROGRAM} {__version__}")
    context.exit()


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)
@click.option("--host", callback=not_empty, help=_HOST_HELP)
@click.option("--port", type=_PORT, help=_PORT_HELP)
@click.option("--debug", is_flag=True, help="Show the traceback of an error, and more log lines.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Print the version and exit.",
)
@click.pass_context
def cli(context: click.Context, host: str | None, port: int | None, *, debug: bool) -> int | None:
    """Serve Nextcloud grants from a database that brings itself to the right schema.

    Without a command, the server runs.
    """
    context.ensure_object(Output).debug = debug
    if context.invoked_subcommand is None:
        return _serve(host, port, debug=debug)
    if context.invoked_subcommand != "run" and (host is not None or port is not None):
        raise click.UsageError("--host and --port belong to 'run'.")
    return None


@cli.command()
@click.option("--host", callback=not_empty, help=_HOST_HELP)
@click.option("--port", type=_PORT, help=_PORT_HELP)
@click.pass_context
def run(context: click.Context, host: str | None, port: int | None) -> int:
    """Bring the database to head, then serve."""
    before = context.parent.params if context.parent else {}
    return _serve(
        before.get("host") if host is None else host,
        before.get("port") if port is None else port,
        debug=before.get("debug", False),
    )


def _serve(host: str | None, port: int | None, *, debug: bool) -> int:
    from nextcloud_mcp_server.server.run import serve  # noqa: PLC0415 - imports the whole server

    click.get_current_context().ensure_object(Output).at_work = True
    return serve(
        host=DEFAULT_HOST if host is None else host,
        port=DEFAULT_PORT if port is None else port,
        debug=debug,
    )


cli.add_command(DatabaseCommands())
