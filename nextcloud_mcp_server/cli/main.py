"""The command nextcloud-mcp-server: run the server, or look after its database.

No exception leaves :func:`main`: what this package raises on purpose is printed as one
line and a remedy, anything else as one line that says so.
"""

from __future__ import annotations

import gc
import io
import sys
from collections.abc import Sequence

from nextcloud_mcp_server.cli.fast_path import Look, asked
from nextcloud_mcp_server.cli.output import PROGRAM, Output, is_abort, is_usage
from nextcloud_mcp_server.errors import TokenStorageError


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
    look = asked(typed)
    if look is None or arguments is not None:
        return output.finish(_run(typed, look, output))
    # A process that only looks is over before there is garbage to collect, and looking for it,
    # at the exit once more, would take an eighth of its time.
    gc.disable()
    status = output.finish(_run(typed, look, output))
    gc.freeze()
    return status


def _run(typed: list[str], look: Look | None, output: Output) -> int:
    try:
        return _by_click(typed, output) if look is None else look(output)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except TokenStorageError as error:
        output.error(error)
        return error.exit_status
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - told below, whatever it is
        if is_abort(error):
            from nextcloud_mcp_server.cli.interrupts import cut_short  # noqa: PLC0415 - rare

            stopped = cut_short()
            output.error(stopped)
            return stopped.exit_status
        if isinstance(error, OSError) and not output.at_work:
            output.lost = error
            return 1
        # The last resort: no traceback for people.
        if output.as_json or not is_usage(error):
            output.error(error)
        else:
            error.show()
        return error.exit_code if is_usage(error) else 1


def _by_click(typed: list[str], output: Output) -> int:
    from nextcloud_mcp_server.cli.root import cli  # noqa: PLC0415 - imports click

    status = cli.main(typed, prog_name=PROGRAM, standalone_mode=False, obj=output)
    return status if isinstance(status, int) else 0
