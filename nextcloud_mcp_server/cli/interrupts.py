"""What Ctrl-C has ended, and what that has left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nextcloud_mcp_server.cli.output import Output, interrupted
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate.inspect import examine


def cut_short() -> TokenStorageError:
    """The error for a command that Ctrl-C has ended, wherever that was."""
    return interrupted("Interrupted; what was not finished was rolled back.")


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
    return interrupted(
        f"Interrupted; what was not finished was rolled back, and {report.database} is {now}."
    )
