"""What Ctrl-C has ended, and what that has left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.report import examine

if TYPE_CHECKING:
    from nextcloud_mcp_server.cli.output import Output

#: What a shell reports of a program that Ctrl-C has stopped.
_STATUS: Final = 130


def not_begun() -> TokenStorageError:
    """The error for a question that Ctrl-C has answered."""
    return _interrupted("Interrupted, so nothing was changed.")


def cut_short() -> TokenStorageError:
    """The error for a command that Ctrl-C has ended, wherever that was."""
    return _interrupted("Interrupted; what was not finished was rolled back.")


@contextmanager
def interruptible(output: Output, database: Path) -> Iterator[None]:
    """Look at ``database`` again where Ctrl-C ends the body, which may have been as good as done.

    Raises:
        TokenStorageError: ``interrupted``, which names the revision.
    """
    try:
        yield
    except KeyboardInterrupt:
        # Not on the line on which the terminal shows ^C.
        output.note("")
        raise _at_its_revision(database) from None


def _at_its_revision(database: Path) -> TokenStorageError:
    try:
        report = examine(database)
    except TokenStorageError:
        return cut_short()
    if report.refusal:
        return cut_short()
    recorded = report.finding.recorded
    now = f"at revision {recorded}" if recorded else "without a recorded revision"
    return _interrupted(
        f"Interrupted; what was not finished was rolled back, and {report.database} is {now}."
    )


def _interrupted(message: str) -> TokenStorageError:
    return TokenStorageError(
        message, code="interrupted", remedy="Run the command again.", exit_status=_STATUS
    )
