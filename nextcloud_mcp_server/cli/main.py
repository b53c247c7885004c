"""The command nextcloud-mcp-server: run the server, or manage its database.

No exception leaves :func:`main`. An error of this package is printed as one line and a
remedy, any other error as one line.
"""

from __future__ import annotations

import gc
import io
import sys
from collections.abc import Sequence

from nextcloud_mcp_server import core_dumps
from nextcloud_mcp_server.cli import fast_path
from nextcloud_mcp_server.cli.output import (
    PROGRAM,
    Output,
    clock_error,
    installation_error,
    interrupted,
    is_abort,
    is_help,
    is_usage,
)
from nextcloud_mcp_server.errors import TokenStorageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: that of ``sys.argv``) and return the exit status."""
    if arguments is None:
        # The environment may have the keys of any command.
        core_dumps.forbid()
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # A path may hold bytes that are not text, and the terminal may support only ASCII.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            # With LC_ALL=C names are bytes for Python, and terminals and logs still use UTF-8.
            if stream.encoding == sys.getfilesystemencoding() == "ascii":
                stream.reconfigure(encoding="utf-8")
    # Set before anything is parsed, so that wrong usage is printed as JSON too.
    output = Output(as_json="--json" in given, debug=_take_debug(given))
    command = fast_path.parse(given)
    if command is None or arguments is not None:
        return output.finish(_run(given, command, output))
    # A process this short has no garbage to collect. The collector, which also runs at exit,
    # would take an eighth of its time.
    gc.disable()
    status = output.finish(_run(given, command, output))
    gc.freeze()
    return status


def _take_debug(arguments: list[str]) -> bool:
    """Remove ``--debug``, which may stand anywhere before ``--``; return whether it was there."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != "--debug"]
    given = len(options) < end
    arguments[:end] = options
    return given


def _run(arguments: list[str], command: fast_path.Command | None, output: Output) -> int:
    try:
        if command is not None:
            return command(output)
        from nextcloud_mcp_server.cli.root import cli  # noqa: PLC0415 - imports click

        status = cli.main(arguments, prog_name=PROGRAM, standalone_mode=False, obj=output)
        return status if isinstance(status, int) else 0
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - printed below, always
        if is_abort(error):
            error = interrupted()
        if isinstance(error, OverflowError):
            error = clock_error(error)
        if isinstance(error, ImportError):
            error = installation_error(error)
        if isinstance(error, TokenStorageError):
            output.error(error)
            return error.exit_status
        if isinstance(error, OSError) and not output.started:
            output.write_error = error
            return 1
        if is_usage(error) and is_help(error) and not output.as_json:
            error.show()
        else:
            output.error(error)
        return error.exit_code if is_usage(error) else 1
