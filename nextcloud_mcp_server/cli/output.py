"""What a command prints: its result on stdout, everything else on stderr.

Nothing that goes wrong while printing stops the work: a reader that has left
(``| head -1``) is no error, a full disk under stdout is told at the end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeGuard

from nextcloud_mcp_server.errors import TokenStorageError

if TYPE_CHECKING:
    import click

#: What people type.
PROGRAM: Final = "nextcloud-mcp-server"

#: The longest answer to a question that is read.
_LONGEST_ANSWER: Final = 100

#: What a shell reports of a program that Ctrl-C has stopped.
_INTERRUPTED: Final = 130

#: The codes of ECMA-48 for red, yellow and cyan.
_COLOURS: Final = {"error": 31, "unexpected error": 31, "warning": 33, "remedy": 36}


class Output:
    """Where the words of one command go.

    Args:
        as_json: whether stdout is to carry exactly one JSON document and nothing else.
        debug: whether an error shows its traceback.
    """

    def __init__(self, *, as_json: bool = False, debug: bool = False) -> None:
        self.as_json = as_json
        self.debug = debug
        #: Why the result could not be written; None when it was, or nobody reads it.
        self.lost: OSError | None = None
        #: Whether the work of a command has begun; before, only click writes.
        self.at_work = False
        self._replaced = False
        self._stdout = sys.stdout

    def alone(self, work: Callable[[], int | None]) -> int | None:
        """Do the work of a command, and keep stdout for its result alone.

        What a migration prints while it is loaded or run goes to stderr.
        """
        sys.stdout, self.at_work = sys.stderr, True
        try:
            return work()
        finally:
            sys.stdout = self._stdout

    def result(self, document: Mapping[str, Any], *lines: str) -> None:
        """Print what the command was asked for: the lines, or the document with ``--json``."""
        if self.as_json:
            # Imported by whoever asks for it: it takes longer than a look.
            import json  # noqa: PLC0415

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
            _print(f"\r\x1b[K{line}", sys.stderr)
        except OSError:
            _discard(sys.stderr)

    def note(self, line: str, *, end: bool = True) -> None:
        """Print a line that is not the result, on stderr."""
        self.status("")
        try:
            _print(_coloured(line) + ("\n" if end else ""), sys.stderr)
        except OSError:
            _discard(sys.stderr)

    def error(self, error: BaseException, document: Mapping[str, Any] | None = None) -> None:
        """Print what went wrong and what to do: on stderr, or as the document with ``--json``.

        Args:
            error: what went wrong.
            document: what else the one JSON document is to hold.
        """
        if self.debug:
            from nextcloud_mcp_server.errors import traceback_lines  # noqa: PLC0415 - as above

            for line in traceback_lines(error):
                self.note(line)
        if self.as_json:
            self.result({**(document or {}), "error": error_facts(error)})
            return
        from nextcloud_mcp_server.errors import describe_error  # noqa: PLC0415 - as above

        for line in describe_error(error):
            self.note(line)

    def answer(self, question: str) -> str | None:
        """Ask on stderr and read one line; None where nobody answers.

        To be asked before anything has begun.

        Raises:
            TokenStorageError: ``interrupted`` where the answer is Ctrl-C.
        """
        self.note(question, end=False)
        # Bytes: a piped answer may be no text at all.
        stream = getattr(sys.stdin, "buffer", None)
        try:
            line: bytes = b"" if stream is None else stream.readline(_LONGEST_ANSWER)
            typed = stream is not None and stream.isatty() and line.endswith(b"\n")
        except (OSError, ValueError):
            line, typed = b"", False
        except KeyboardInterrupt:
            self.note("")
            raise interrupted("Interrupted, so nothing was changed.") from None
        if not typed:
            self.note("")
        return line.decode("utf-8", "replace").strip() if line else None

    def finish(self, status: int) -> int:
        """Write what is still unwritten, and return the status to exit with."""
        for stream in (self._stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except OSError as error:
                self._give_up(error, stream)
        if self.lost is None:
            return status
        self.note(f"error: The output could not be written ({self.lost.strerror}).")
        self.note("remedy: Send it to another place; what the command did is done.")
        return status or 1

    def _write(self, line: str) -> None:
        try:
            _print(f"{line}\n", self._stdout)
        except OSError as error:
            self._give_up(error, self._stdout)

    def _give_up(self, error: OSError, stream: TextIO) -> None:
        if stream is self._stdout and not isinstance(error, BrokenPipeError):
            self.lost = error
        _discard(stream)


def interrupted(message: str) -> TokenStorageError:
    """The error for what Ctrl-C has ended."""
    return TokenStorageError(
        message, code="interrupted", remedy="Run the command again.", exit_status=_INTERRUPTED
    )


def error_facts(error: BaseException) -> dict[str, str]:
    """The facts of an error, for ``--json``."""
    if isinstance(error, TokenStorageError):
        return error.as_dict()
    if is_usage(error):
        return {
            "code": "bad-input",
            "message": _plain(error),
            "remedy": "See what the command takes with --help.",
        }
    from nextcloud_mcp_server.errors import describe_error, unexpected  # noqa: PLC0415 - see above

    remedy = describe_error(error)[1].removeprefix("remedy: ")
    return {"code": "unexpected", "message": unexpected(error), "remedy": remedy}


def is_usage(error: BaseException) -> TypeGuard[click.ClickException]:
    """Whether click could not understand what was typed."""
    click = sys.modules.get("click")
    return click is not None and isinstance(error, click.ClickException)


def is_abort(error: BaseException) -> bool:
    """Whether somebody has stopped the program, as click says it or as Python does."""
    click = sys.modules.get("click")
    aborts = (KeyboardInterrupt,) if click is None else (KeyboardInterrupt, click.Abort)
    return isinstance(error, aborts)


def _plain(error: click.ClickException) -> str:
    # The message of this one is the whole help text.
    if type(error).__name__ == "NoArgsIsHelpError":
        return "A command is missing."
    from nextcloud_mcp_server.errors import printable  # noqa: PLC0415 - see above

    return printable(error.format_message())


def _print(text: str, stream: TextIO | None) -> None:
    # None where the program was started with the stream closed.
    if stream is not None:
        stream.write(text)
        stream.flush()


def _coloured(line: str) -> str:
    label, colon, rest = line.partition(":")
    colour = _COLOURS.get(label)
    if colour is None or sys.stderr is None or not sys.stderr.isatty():
        return line
    from nextcloud_mcp_server.settings import wants_colour  # noqa: PLC0415 - see above

    if not wants_colour():
        return line
    return f"\x1b[{colour}m{label}{colon}\x1b[0m{rest}"


def _discard(stream: TextIO) -> None:
    """Send what ``stream`` still holds, and whatever follows, nowhere."""
    # At its exit the interpreter flushes the stream again, and would print that it cannot.
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path to handle
        os.dup2(nowhere.fileno(), stream.fileno())
