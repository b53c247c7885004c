"""The log lines of the package while a command runs, on stderr."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import printable

#: How the line begins that a wait for a lock logs every few seconds.
_STILL_WAITING: Final = "Waiting for "


@contextmanager
def log_lines(output: Output) -> Iterator[None]:
    """Print the package's warnings on stderr, each once; with ``--debug`` all log lines."""
    logger = logging.getLogger("nextcloud_mcp_server")
    handler, level = _LogHandler(output), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if output.debug else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _LogHandler(logging.Handler):
    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output
        self._printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        label = "warning: " if record.levelno >= logging.WARNING else ""
        line = label + printable(record.getMessage())
        # A command reads its keys more than once, and checks again under the lock.
        if line in self._printed and not record.msg.startswith(_STILL_WAITING):
            return
        self._printed.add(line)
        self._output.note(line)
