"""What a command prints: its result on stdout, everything else on stderr.

Nothing that goes wrong while printing stops the work: a reader that has left
(``| head -1``) is no error, a full disk under stdout is told at the end.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TextIO

import click

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.settings import wants_colour
from nextcloud_mcp_server.words import describe_error, printable, unexpected

#: The longest answer to a question that is read.
_LONGEST_ANSWER: Final = 100

_COLOURS: Final = {"error": "red", "unexpected error": "red", "warning": "yellow", "remedy": "cyan"}


@dataclass
class Output:
    """Where the words of one command go.

    Attributes:
        as_json: whether stdout is to carry exactly one JSON document and nothing else.
        debug: whether an error shows its traceback.
        lost: why the result could not be written; None when it was, or nobody reads it.
    """

    as_json: bool = False
    debug: bool = False
    lost: OSError | None = None
    _replaced: bool = False

    def result(self, document: Mapping[str, Any], *lines: str) -> None:
        """Print what the command was asked for: the lines, or the document with ``--json``."""
        if self.as_json:
            self._write(json.dumps(document, indent=2))
            return
        for line in lines:
            self._write(line)

    def head(self, line: str) -> None:
        """Print a line before the result; with ``--json`` the document has it."""
        if not self.as_json:
            self._write(line)

    def status(self, line: str) -> None:
        """Show a line on the terminal that the next one replaces; with an empty one, none."""
        if not line and not self._replaced:
            return
        self._replaced = bool(line)
        try:
            click.echo(f"\r\x1b[K{line}", nl=False, err=True)
        except OSError:
            _discard(sys.stderr)

    def note(self, line: str, *, end: bool = True) -> None:
        """Print a line that is not the result, on stderr."""
        self.status("")
        try:
            click.echo(_coloured(line), nl=end, err=True)
        except OSError:
            _discard(sys.stderr)

    def error(self, error: BaseException, document: Mapping[str, Any] | None = None) -> None:
        """Print what went wrong and what to do: on stderr, or as the document with ``--json``.

        Args:
            error: what went wrong.
            document: what else the one JSON document is to hold.
        """
        if self.debug:
            for line in "".join(traceback.format_exception(error)).splitlines():
                self.note(line)
        if self.as_json:
            self.result({**(document or {}), "error": error_facts(error)})
            return
        for line in describe_error(error):
            self.note(line)

    def answer(self, question: str) -> str | None:
        """Ask on stderr and read one line; None where nobody answers."""
        self.note(question, end=False)
        # Bytes: a piped answer may be no text at all.
        stream = getattr(sys.stdin, "buffer", None)
        try:
            line: bytes = b"" if stream is None else stream.readline(_LONGEST_ANSWER)
            typed = stream is not None and stream.isatty() and line.endswith(b"\n")
        except (OSError, ValueError):
            line, typed = b"", False
        if not typed:
            self.note("")
        return line.decode("utf-8", "replace").strip() if line else None

    def finish(self, status: int) -> int:
        """Write what is still unwritten, and return the status to exit with."""
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except OSError as error:
                self._give_up(error, stream)
        if self.lost is None:
            return status
        self.note(f"error: The output could not be written ({self.lost.strerror}).")
        return status or 1

    def _write(self, line: str) -> None:
        try:
            click.echo(line)
        except OSError as error:
            self._give_up(error, sys.stdout)

    def _give_up(self, error: OSError, stream: TextIO) -> None:
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            self.lost = error
        _discard(stream)


def error_facts(error: BaseException) -> dict[str, str]:
    """The facts of an error, for ``--json``."""
    if isinstance(error, TokenStorageError):
        return error.as_dict()
    if isinstance(error, click.ClickException):
        return {
            "code": "bad-input",
            "message": _plain(error),
            "remedy": "See what the command takes with --help.",
        }
    remedy = describe_error(error)[1].removeprefix("remedy: ")
    return {"code": "unexpected", "message": unexpected(error), "remedy": remedy}


def _plain(error: click.ClickException) -> str:
    # The message of this one is the whole help text.
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return "A command is missing."
    return printable(error.format_message())


def _coloured(line: str) -> str:
    label, colon, rest = line.partition(":")
    colour = _COLOURS.get(label)
    # click takes the colour out again where stderr is no terminal.
    return click.style(label + colon, fg=colour) + rest if colour and wants_colour() else line


def _discard(stream: TextIO) -> None:
    """Send what ``stream`` still holds, and whatever follows, nowhere."""
    # At its exit the interpreter flushes the stream again, and would print that it cannot.
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path to handle
        os.dup2(nowhere.fileno(), stream.fileno())
