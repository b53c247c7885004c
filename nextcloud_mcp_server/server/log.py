"""The output of the server: lines for people, or one JSON object per line.

The log goes to stderr, with time and level. What a start did and where the server listens goes to
stdout, without them; with JSON both have the same form.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TextIO

from nextcloud_mcp_server.errors import (
    TokenStorageError,
    describe_error,
    printable,
    traceback_lines,
    unexpected,
    without_secrets,
)
from nextcloud_mcp_server.server.limits import OncePerSecond
from nextcloud_mcp_server.server.request_id import request_id

#: Messages of uvicorn that are dropped: the error itself is printed.
_DROPPED: Final = frozenset(
    {"Application startup failed. Exiting.", "Application shutdown failed. Exiting."}
)


class LogOptions(NamedTuple):
    """What :func:`~.settings.process.log_settings` returns."""

    level: str = "info"
    format: str = "text"
    access: bool = False


class TextLines(logging.Formatter):
    """Format a record as its time, level and message; a traceback follows on its own lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the line without a traceback."""
        # A path may contain line breaks. A traceback, which is added later, keeps its own.
        text = printable(super().formatMessage(record))
        if mine := request_id.get():
            text = f"{text} (request {mine})"
        return f"{_time(record.created)} {record.levelname.lower()}: {text}"

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without secrets that a library wrote into it."""
        return without_secrets(super().format(record))


class JsonLines(logging.Formatter):
    """Format a record as a JSON object on one line, with the traceback in it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object: time, level, logger, message, and the values of the record."""
        fields: dict[str, Any] = {"logger": record.name, **getattr(record, "fields", {})}
        if mine := request_id.get():
            fields["request_id"] = mine
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return _json(record.created, record.levelname.lower(), record.getMessage(), fields)


class Printer:
    """Prints what is no log record, in the form of the log: the outcome, and the last error."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def line(self, text: str) -> None:
        """Print a line on stdout."""
        _write(_json(time.time(), "info", text, {}) if self._as_json else text, sys.stdout)

    def error(self, error: BaseException, *, debug: bool) -> None:
        """Print an error and its remedy on stderr, with ``debug`` also the traceback."""
        traceback = traceback_lines(error) if debug else []
        if not self._as_json:
            for line in (*traceback, *describe_error(error)):
                _write(line, sys.stderr)
            return
        if isinstance(error, TokenStorageError):
            message, code = error.message, error.code
        else:
            message, code = unexpected(error), "unexpected"
        fields = {"code": code, "remedy": describe_error(error)[1].removeprefix("remedy: ")}
        if traceback:
            fields["traceback"] = "\n".join(traceback)
        _write(_json(time.time(), "error", message, fields), sys.stderr)


@contextmanager
def log_to_stderr(options: LogOptions) -> Iterator[Printer]:
    """Write this package's log to stderr, and the warnings of the libraries."""
    as_json = options.format == "json"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else TextLines())
    handler.addFilter(lambda record: record.msg not in _DROPPED)
    # The server prints on stdout what the start did.
    handler.addFilter(lambda record: record.name != "nextcloud_mcp_server.lifespan")
    handler.addFilter(OncePerSecond())
    level = logging.getLevelNamesMapping()[options.level.upper()]
    root, ours = logging.getLogger(), logging.getLogger("nextcloud_mcp_server")
    # At DEBUG it logs headers of answers, as the cookies of Nextcloud.
    http = logging.getLogger("httpcore2")
    before = (root.level, ours.level, http.level)
    ours.setLevel(level)
    http.setLevel(logging.INFO)
    root.setLevel(max(level, root.level))
    root.addHandler(handler)
    try:
        yield Printer(as_json=as_json)
    finally:
        root.removeHandler(handler)
        root.setLevel(before[0])
        ours.setLevel(before[1])
        http.setLevel(before[2])


def _json(seconds: float, level: str, message: str, fields: dict[str, Any]) -> str:
    line = {"time": _time(seconds), "level": level, "message": message, **fields}
    return json.dumps(
        {name: without_secrets(v) if isinstance(v, str) else v for name, v in line.items()}
    )


def _time(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _write(line: str, file: TextIO) -> None:
    # Serving continues if nothing reads the output any more.
    with suppress(OSError):
        print(line, file=file, flush=True)
