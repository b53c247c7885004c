"""The package's log lines, as the plain lines of a command."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import printable


class _Plain(logging.Handler):
    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        label = "warning: " if record.levelno >= logging.WARNING else ""
        self._output.note(label + printable(record.getMessage()))


@contextmanager
def plain_log(output: Output) -> Iterator[None]:
    """Print the package's warnings (with ``--debug`` everything) while the body runs."""
    logger = logging.getLogger("nextcloud_mcp_server")
    handler, level = _Plain(output), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if output.debug else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
