"""What surrounds the work of a command: progress and Ctrl-C."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.base import WaitInterrupted
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.cli.output import Output, interrupted
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.migrate.inspect import inspect
from nextcloud_mcp_server.progress import (
    LOG_INTERVAL,
    Progress,
    ProgressCallback,
    Reporter,
    paced,
    reporting,
)

#: Characters of the bar itself.
_WIDTH: Final = 20


@contextmanager
def operation(
    output: Output,
    database: Path | ServerUrl | None = None,
    *,
    interruption: TokenStorageError | None = None,
) -> Iterator[ProgressCallback]:
    """Yield a callback that shows progress, and say after Ctrl-C what became of the work.

    Raises:
        TokenStorageError: ``interrupted``, unless the body still waited for a lock; with the
            revision of ``database``, which the body changes and may have committed before
            Ctrl-C, or the given ``interruption``.
    """
    try:
        with _progress(output) as progress:
            yield progress
    except KeyboardInterrupt as error:
        if isinstance(error, WaitInterrupted):
            interruption = interrupted("It waited for a lock, and nothing was changed.")
        elif database is not None:
            interruption = _interrupted(database)
        if interruption is None:
            raise
        # Not on the line on which the terminal shows ^C.
        output.note("")
        raise interruption from None


@contextmanager
def phases(output: Output, first: str = "") -> Iterator[Reporter]:
    """Show the progress of a body that only reads, and yield a function that reports its phase."""
    with _progress(output) as progress, reporting(progress) as report:
        if first:
            report(first)
        yield report


def progress_bar(now: Progress, columns: int) -> str:
    """Return one line of less than ``columns`` characters, with a bar if the total is known."""
    text = f"{now}, {now.seconds:.0f} s"
    if now.total > 0:
        full = _WIDTH * min(max(now.done, 0), now.total) // now.total
        text = f"[{'#' * full}{'-' * (_WIDTH - full)}] {text}"
    return text[: max(columns - 1, 0)]


@contextmanager
def _progress(output: Output) -> Iterator[ProgressCallback]:
    """Yield a callback: a bar on a terminal, a line every few seconds elsewhere, no JSON."""
    if output.as_json:
        yield lambda _: None
    elif sys.stderr is not None and sys.stderr.isatty():
        try:
            yield lambda now: output.status(progress_bar(now, shutil.get_terminal_size().columns))
        finally:
            output.status("")
    else:
        yield paced(lambda now: output.note(f"{now}, {now.seconds:.0f} s so far"), LOG_INTERVAL)


def _interrupted(database: Path | ServerUrl) -> TokenStorageError:
    try:
        inspection = inspect(connect(database))
    except TokenStorageError:
        return interrupted()
    if inspection.refusal:
        return interrupted()
    recorded = inspection.recorded
    now = f"at revision {recorded}" if recorded else "without a recorded revision"
    if not inspection.exists:
        return interrupted(f"There is nothing at {inspection.database}, and nothing was changed.")
    return interrupted(f"Unfinished changes were rolled back, and {inspection.database} is {now}.")
