"""The root of the command line: the server's options, and the commands below."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import click

from nextcloud_mcp_server import __version__
from nextcloud_mcp_server.cli.options import WholeNumber, not_empty
from nextcloud_mcp_server.cli.output import PROGRAM, Output
from nextcloud_mcp_server.errors import TokenStorageError

#: The first line of every ``db`` command's docstring; a test compares them.
SUMMARIES: Final = {
    "audit": "List the audit log, or verify it and the secrets that it names.",
    "backup": "Make a verified copy of the database, even while it is in use.",
    "backups": "List the backups beside the database, newest first, or delete old ones.",
    "check": "Exit 0 if the database is ready, 3 if an upgrade is pending.",
    "copy": "Copy all rows into a new database, also of the other engine.",
    "current": "Show the revision of the database; change nothing.",
    "doctor": "Check the database and list its problems, most severe first.",
    "downgrade": "Go back one or more revisions (emergency use only).",
    "history": "List the revisions and what each of them changes.",
    "lint": "Check the migrations and list their problems.",
    "log": "Show the journal of migrations, newest first.",
    "migrate": "Create an empty migration (in a checkout only).",
    "prune": "Delete expired login flows and sessions, and old audit entries.",
    "repair": "Fix the problems that `db doctor` marks as fixable.",
    "restore": "Replace the database with a backup.",
    "show": "Print the SQL of one revision.",
    "stamp": "Record a revision without running a migration.",
    "upgrade": "Create the database or upgrade it to head.",
}

#: Those of the ``keys`` commands.
KEY_SUMMARIES: Final = {
    "generate": "Print a new encryption key.",
    "introduce": "Register a given key, so that it can be promoted.",
    "list": "Show the state of each key, and how many secrets of each table need it.",
    "promote": "Let an introduced key encrypt from now on.",
    "retire": "Retire a key that no secret needs any more.",
    "rotate": "Encrypt every secret with the primary key.",
}

_DB_EPILOG: Final = """
\b
Examples:
  nextcloud-mcp-server db current
  nextcloud-mcp-server db upgrade -d /path/to/tokens.db
  nextcloud-mcp-server db downgrade -1
  nextcloud-mcp-server db migrate "add user preferences table"

Exit status: 0 success, 1 error, 2 wrong usage (a malformed value that was typed; one in the
environment or in a file is 1), 3 upgrade pending (check) or incomplete (doctor).
Every error has a code, which docs/errors.md explains.
"""


_KEYS_EPILOG: Final = """
\b
Examples:
  nextcloud-mcp-server keys generate
  nextcloud-mcp-server keys list -d /path/to/tokens.db
  nextcloud-mcp-server keys introduce -d /path/to/tokens.db
  nextcloud-mcp-server keys promote 5d41402a -d /path/to/tokens.db
  nextcloud-mcp-server keys rotate -d /path/to/tokens.db
  nextcloud-mcp-server keys retire 7b52009b -d /path/to/tokens.db

The keys come from TOKEN_ENCRYPTION_KEY (separated by ;, newest first), from the file that
TOKEN_ENCRYPTION_KEY_FILE names, or from the file DATABASE.key.
"""


class Commands(click.Group):
    """A group that tells what was probably meant by a mistyped command or option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments of the group."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from nextcloud_mcp_server.cli import mistakes  # noqa: PLC0415 - only for a mistake

            raise mistakes.misplaced(error.option_name, ctx, self, given, SUMMARIES) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Parse the arguments of the command and run it."""
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            from nextcloud_mcp_server.cli import mistakes  # noqa: PLC0415 - only for a mistake

            raise mistakes.no_option(error.option_name, error.ctx or ctx) from None
        except click.UsageError as error:
            name = ctx.invoked_subcommand
            command = self.get_command(ctx, name) if error.ctx is None and name else None
            if command is not None:
                # click's parser names no command in some errors.
                error.ctx = click.Context(command, ctx, info_name=name)
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that ``args`` begin with."""
        name = args[0]
        if name.startswith("-") or name in self.list_commands(ctx):
            return super().resolve_command(ctx, args)
        from nextcloud_mcp_server.cli import mistakes  # noqa: PLC0415 - only for a mistake

        known = {name: name for name in self.list_commands(ctx)}
        if ctx.parent is None:
            # `nextcloud-mcp-server upgrade` lacks the group.
            known |= {name: f"keys {name}" for name in KEY_SUMMARIES}
            known |= {name: f"db {name}" for name in SUMMARIES}
        raise mistakes.no_command(name, known, ctx)


def _source_help(command: click.Command) -> str:
    """Return the help that `python -OO` has removed."""
    from nextcloud_mcp_server.cli.docstrings import source_help  # noqa: PLC0415 - rarely needed

    return source_help(command)


class LazyGroup(Commands):
    """A group that imports its commands, with ``load``, only when one of them is run.

    Its help has the ``summaries`` of the commands by name.
    """

    def __init__(
        self,
        name: str,
        summaries: Mapping[str, str],
        load: Callable[[], click.Group],
        **options: Any,
    ) -> None:
        super().__init__(name, **options)
        self._summaries = summaries
        self._load = load

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        return sorted(self._summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, after importing all of them."""
        command = self._load().get_command(ctx, cmd_name)
        if command is not None:
            for one in (command, *getattr(command, "commands", {}).values()):
                one.help = one.help or _source_help(one)
            command.help = command.help or self._summaries[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(self._summaries.items()))


def _db_commands() -> click.Group:
    from nextcloud_mcp_server.cli.db.group import db_commands  # noqa: PLC0415 - only when one is run

    return db_commands


def _key_commands() -> click.Group:
    from nextcloud_mcp_server.cli.keys.group import key_commands  # noqa: PLC0415 - only when one is run

    return key_commands


_EPILOG: Final = """
\b
Examples:
  nextcloud-mcp-server                 serve on 127.0.0.1:8000
  nextcloud-mcp-server --port 9000     serve on another port
  nextcloud-mcp-server stdio           connect the assistant of one person
  nextcloud-mcp-server db current      show the revision of the database
  nextcloud-mcp-server keys list       show which key is needed for what
"""

#: In the order of the help. They are read before `run` and after it.
_SERVER_OPTIONS: Final = (
    click.option(
        "--host",
        callback=not_empty,
        help="The address to listen on.  [default: $NEXTCLOUD_MCP_HOST, else 127.0.0.1]",
    ),
    click.option(
        "--port",
        type=WholeNumber(0, 65535),
        help="The port to listen on; 0 for any free one.  "
        "[default: $NEXTCLOUD_MCP_PORT, else 8000]",
    ),
    click.option(
        "--log-level",
        type=click.Choice(("debug", "info", "warning", "error")),
        help="Log this and what is more severe.  [default: $NEXTCLOUD_MCP_LOG_LEVEL, else info]",
    ),
    click.option(
        "--log-format",
        type=click.Choice(("text", "json")),
        help="Log lines for people, or one JSON object per line.  "
        "[default: $NEXTCLOUD_MCP_LOG_FORMAT, else text]",
    ),
    click.option(
        "--access-log/--no-access-log",
        default=None,
        help="Log a line per request.  [default: $NEXTCLOUD_MCP_ACCESS_LOG, else off]",
    ),
)


def _server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_SERVER_OPTIONS):
        command = option(command)
    return command


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)
@_server_options
@click.option(
    "--debug",
    is_flag=True,
    help="Show the traceback of an error, and all log lines, whatever --log-level is. It may "
    "stand anywhere.",
)
@click.version_option(__version__, message=f"{PROGRAM} {__version__}", help="Print the version.")
@click.pass_context
def cli(context: click.Context, /, *, debug: bool, **server: Any) -> int | None:
    """Connect MCP clients to Nextcloud; keep people's grants in a database that upgrades itself.

    Without a command, the server runs.
    """
    context.ensure_object(Output).debug |= debug
    if context.invoked_subcommand is None:
        return _serve(**server)
    given = [f"--{name.replace('_', '-')}" for name, value in server.items() if value is not None]
    if context.invoked_subcommand != "run" and given:
        raise click.UsageError(f"{given[0]} is an option of 'run'.")
    return None


@cli.command()
@_server_options
@click.pass_context
def run(context: click.Context, /, **server: Any) -> int:
    """Upgrade the database to head, then serve."""
    before = context.parent.params if context.parent else {}
    return _serve(
        **{name: before.get(name) if value is None else value for name, value in server.items()}
    )


_STDIO_EPILOG: Final = """
\b
Settings, which the MCP client passes as environment variables:
  NEXTCLOUD_HOST      the address of Nextcloud, like https://cloud.example.com
  NEXTCLOUD_USERNAME  the login name
  NEXTCLOUD_PASSWORD  an app password: Nextcloud, Personal settings, Security
  READ_ONLY           true: no tool that writes
  SHARE_LINKS         true: also a tool that creates public links
"""

_LOG_OPTIONS: Final = _SERVER_OPTIONS[2:4]


@cli.command(epilog=_STDIO_EPILOG)
@_LOG_OPTIONS[0]
@_LOG_OPTIONS[1]
@click.pass_context
def stdio(context: click.Context, /, *, log_level: str | None, log_format: str | None) -> int:
    """Give the assistant of one person its Nextcloud.

    An MCP client starts it, and exchanges messages with it over stdin and stdout. The log goes to
    stderr. No database is used.
    """
    with _stopping():
        from nextcloud_mcp_server.server.log import LogOptions  # noqa: PLC0415
        from nextcloud_mcp_server.server.stdio import serve_stdio  # noqa: PLC0415 - imports MCP
        from nextcloud_mcp_server.settings.process import log_settings  # noqa: PLC0415

        output = context.ensure_object(Output)
        output.started = True
        log = LogOptions(*log_settings(level=log_level, form=log_format))
        return serve_stdio(debug=output.debug, log=log)


def _serve(
    *,
    host: str | None,
    port: int | None,
    log_level: str | None,
    log_format: str | None,
    access_log: bool | None,
) -> int:
    with _stopping():
        from nextcloud_mcp_server.server.log import LogOptions  # noqa: PLC0415
        from nextcloud_mcp_server.server.run import serve  # noqa: PLC0415 - imports the whole server
        from nextcloud_mcp_server.settings.process import listen_address, log_settings  # noqa: PLC0415

        output = click.get_current_context().ensure_object(Output)
        output.started = True
        host, port = listen_address(host=host, port=port)
        log = LogOptions(*log_settings(level=log_level, form=log_format, access=access_log))
        return serve(host=host, port=port, debug=output.debug, log=log)


@contextmanager
def _stopping() -> Iterator[None]:
    """Let SIGTERM end the import of the server as it ends its start: with one line and exit 1."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        # A server that was stopped ignores further signals until the process has ended.
        if signal.getsignal(signal.SIGTERM) is _stop:
            signal.signal(signal.SIGTERM, before)


def _stop(*_: object) -> None:
    raise TokenStorageError(
        "Interrupted. The server was not started yet, and nothing was changed.",
        code="interrupted",
        remedy="Start it again.",
    )


cli.add_command(
    LazyGroup(
        "db",
        SUMMARIES,
        _db_commands,
        help="Inspect, upgrade, downgrade, back up and repair the token database.",
        epilog=_DB_EPILOG,
    )
)
cli.add_command(
    LazyGroup(
        "keys",
        KEY_SUMMARIES,
        _key_commands,
        help="List the encryption keys, and replace them.",
        epilog=_KEYS_EPILOG,
    )
)

for _command in (cli, run, stdio):
    _command.help = _command.help or _source_help(_command)
