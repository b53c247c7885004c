"""How far long work is, on a terminal as a bar and elsewhere as a line every few seconds."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from nextcloud_mcp_server.cli.output import Output
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
def shown(output: Output) -> Iterator[ProgressCallback]:
    """A listener that shows on stderr how far it is; with ``--json`` one that shows nothing."""
    if output.as_json:
        yield lambda _: None
    elif sys.stderr is not None and sys.stderr.isatty():
        try:
            yield lambda now: output.status(bar(now, shutil.get_terminal_size().columns))
        finally:
            output.status("")
    else:
        yield paced(lambda now: output.note(f"{now}, {now.seconds:.0f} s so far"), LOG_INTERVAL)


@contextmanager
def telling(output: Output) -> Iterator[Reporter]:
    """Show how far the body is, which says so itself."""
    with shown(output) as listener, reporting(listener) as say:
        yield say


def bar(now: Progress, columns: int) -> str:
    """One line of less than ``columns`` characters, with a bar where it is known how far."""
    text = f"{now}, {now.seconds:.0f} s"
    if now.total > 0:
        full = _WIDTH * min(max(now.done, 0), now.total) // now.total
        text = f"[{'#' * full}{'-' * (_WIDTH - full)}] {text}"
    return text[: max(columns - 1, 0)]
