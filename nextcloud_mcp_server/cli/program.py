"""The command line as click sees it: the server's options, and the commands under it."""

from __future__ import annotations

from typing import Final

import click

from nextcloud_mcp_server.cli.output import PROGRAM, Output
from nextcloud_mcp_server.cli.summaries import DatabaseCommands
from nextcloud_mcp_server.cli.values import not_empty

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8000

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
    from importlib import metadata  # noqa: PLC0415 - takes longer than the rest

    try:
        version = metadata.version(PROGRAM)
    except metadata.PackageNotFoundError:
        version = "(not installed)"
    click.echo(f"{PROGRAM} {version}")
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
    from nextcloud_mcp_server.serve import serve  # noqa: PLC0415 - imports the whole server

    click.get_current_context().ensure_object(Output).at_work = True
    return serve(
        host=DEFAULT_HOST if host is None else host,
        port=DEFAULT_PORT if port is None else port,
        debug=debug,
    )


cli.add_command(DatabaseCommands())
