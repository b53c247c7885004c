"""The command nextcloud-mcp-server: run the server, or look after its database.

No exception leaves :func:`main`: what this package raises on purpose is printed as one
line and a remedy, anything else as one line that says so.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Final

import click

from nextcloud_mcp_server.cli.db import db_commands
from nextcloud_mcp_server.cli.options import not_empty
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import TokenStorageError

PROGRAM: Final = "nextcloud-mcp-server"

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8000

#: What a shell reports of a program that Ctrl-C has stopped.
INTERRUPTED: Final = 130

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

    return serve(
        host=DEFAULT_HOST if host is None else host,
        port=DEFAULT_PORT if port is None else port,
        debug=debug,
    )


cli.add_command(db_commands)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the status to exit with.

    Args:
        arguments: what was typed after the program's name (default: ``sys.argv``).
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # A path may hold bytes that are no text, and the terminal may know only ASCII.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Known before anything is parsed, so that a wrong usage is a document too.
    output = Output(as_json="--json" in typed, debug="--debug" in typed)
    return output.finish(_run(typed, output))


def _run(typed: list[str], output: Output) -> int:
    try:
        status = cli.main(typed, prog_name=PROGRAM, standalone_mode=False, obj=output)
    except click.ClickException as error:
        if output.as_json:
            output.error(error)
        else:
            error.show()
        return error.exit_code
    except TokenStorageError as error:
        output.error(error)
        return error.exit_status
    except (click.Abort, KeyboardInterrupt):
        output.error(_interrupted())
        return INTERRUPTED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except Exception as error:  # noqa: BLE001 - the last resort: no traceback for people
        output.error(error)
        return 1
    return status if isinstance(status, int) else 0


def _interrupted() -> TokenStorageError:
    return TokenStorageError(
        "Interrupted; what was not finished was rolled back.",
        code="interrupted",
        remedy="Run the command again.",
        exit_status=INTERRUPTED,
    )
