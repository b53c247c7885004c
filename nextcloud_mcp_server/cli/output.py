"""Print the result of a command on stdout and everything else on stderr.

An error while printing does not stop the work. A reader that closed the pipe (``| head -1``)
is ignored; a full disk under stdout is reported at the end.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeGuard

from nextcloud_mcp_server.errors import (
    TokenStorageError,
    describe_error,
    legible,
    printable,
    traceback_lines,
    unexpected,
)

if TYPE_CHECKING:
    import click

PROGRAM: Final = "nextcloud-mcp-server"

#: The most bytes that are read of an answer to a question.
_LONGEST_ANSWER: Final = 100

#: The exit status of a program that Ctrl-C ended, as shells report it.
_INTERRUPTED: Final = 130

#: The codes of ECMA-48 for red, yellow and cyan.
_COLOURS: Final = {"error": 31, "unexpected error": 31, "warning": 33, "remedy": 36}

#: Those of the levels of a finding.
_LEVELS: Final = {"error": 31, "unknown": 33, "warning": 33, "note": 36, "ok": 32}


class Output:
    """The streams of one command.

    With ``as_json`` stdout gets exactly one JSON document and nothing else; with ``debug`` an
    error is printed with its traceback.
    """

    def __init__(self, *, as_json: bool = False, debug: bool = False) -> None:
        self.as_json = as_json
        self.debug = debug
        #: Why the result could not be written; None if it was, or if the reader closed the pipe.
        self.write_error: OSError | None = None
        #: Whether the work of a command has begun; before that, only click writes.
        self.started = False
        self._replaced = False
        self._stdout = sys.stdout

    def run(self, work: Callable[[], int | None]) -> int | None:
        """Run the work of a command; what a migration prints meanwhile goes to stderr."""
        sys.stdout, self.started = sys.stderr, True
        try:
            return work()
        finally:
            sys.stdout = self._stdout

    def result(self, document: Mapping[str, Any], *lines: str) -> None:
        """Print the result: the lines, or the document with ``--json``."""
        if self.as_json:
            # It takes longer to import than `db current` runs.
            import json  # noqa: PLC0415

            lines = (json.dumps(_legible(document), indent=2),)
        for line in lines:
            self._print(f"{line}\n", self._stdout)

    def columns(self) -> int | None:
        """Return the width of the terminal on stdout; None if the result goes elsewhere."""
        if self._stdout is None or not self._stdout.isatty():
            return None
        import shutil  # noqa: PLC0415 - only on a terminal

        return shutil.get_terminal_size().columns

    def level(self, text: str, name: str) -> str:
        """Return ``text`` in the colour of a level, if it is for a terminal that shows colours."""
        return _in_colour(text, _LEVELS.get(name), self._stdout)

    def heading(self, line: str) -> None:
        """Print a line before the result; not with ``--json``, whose document contains it."""
        if not self.as_json:
            self._print(f"{line}\n", self._stdout)

    def status(self, line: str) -> None:
        """Show a line on the terminal that the next one replaces; an empty one removes it."""
        if not line and not self._replaced:
            return
        self._replaced = bool(line)
        self._print(f"\r\x1b[K{line}", sys.stderr)

    def note(self, line: str, *, end: bool = True) -> None:
        """Print a line that is not the result, on stderr."""
        self.status("")
        self._print(_coloured(line) + ("\n" if end else ""), sys.stderr)

    def error(self, error: BaseException, document: Mapping[str, Any] | None = None) -> None:
        """Print an error and its remedy on stderr, or with ``--json`` as a part of the document."""
        if self.debug:
            for line in traceback_lines(error):
                self.note(line)
        if self.as_json:
            self.result({**(document or {}), "error": error_facts(error)})
            return
        for line in _usage_lines(error) if is_usage(error) else describe_error(error):
            self.note(line)

    def confirm(self, question: str, command: str) -> None:
        """Ask on stderr; return only after a yes.

        ``command`` is the arguments that do the same without a question.

        Raises:
            TokenStorageError: ``declined`` for any other answer or none; ``interrupted`` for
                Ctrl-C.
        """
        answer = self._answer(f"{question} [y/N] ")
        if answer.lower() in {b"y", b"yes"}:
            return
        raise TokenStorageError(
            "Aborted. Nothing was changed."
            if answer
            else "This needs confirmation and the input is not interactive: pass --yes. "
            "Nothing was changed.",
            code="declined",
            remedy=f"To do it without confirmation: {PROGRAM} {command}",
        )

    def _answer(self, question: str) -> bytes:
        """Ask, and return one line without spaces around it; empty only if the input has none."""
        # Bytes: a piped answer need not be text.
        stream = getattr(sys.stdin, "buffer", None)
        try:
            self.note(question, end=False)
            line: bytes = b"" if stream is None else stream.readline(_LONGEST_ANSWER)
            typed = stream is not None and stream.isatty() and line.endswith(b"\n")
        except (OSError, ValueError):
            line, typed = b"", False
        except KeyboardInterrupt:
            self.note("")
            raise interrupted("Nothing was changed.") from None
        if not typed:
            self.note("")
        return line.strip() or line

    def finish(self, status: int) -> int:
        """Flush the streams, and return the exit status."""
        for stream in (self._stdout, sys.stderr):
            self._print("", stream)
        if self.write_error is None:
            return status
        # On stderr also with --json, whose document stdout does not take.
        for line in describe_error(_unwritten(self.write_error)):
            self.note(line)
        return status or 1

    def _print(self, text: str, stream: TextIO | None) -> None:
        """Write and flush; after an error the stream goes to the null device."""
        # None if the program was started with the stream closed.
        if stream is None:
            return
        try:
            stream.write(text)
            stream.flush()
        except OSError as error:
            if stream is self._stdout and not isinstance(error, BrokenPipeError):
                self.write_error = error
            # At exit the interpreter flushes the stream again, and would print that it cannot.
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path
                os.dup2(nowhere.fileno(), stream.fileno())


def _legible(value: Any) -> Any:
    """Return a document with each path in it as it is named in UTF-8."""
    if isinstance(value, str):
        return legible(value)
    if isinstance(value, Mapping):
        return {name: _legible(one) for name, one in value.items()}
    return [_legible(one) for one in value] if isinstance(value, list | tuple) else value


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines with aligned columns, without control characters."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def interrupted(effect: str = "Unfinished changes were rolled back.") -> TokenStorageError:
    """Return the error for a command that Ctrl-C ended."""
    return TokenStorageError(
        f"Interrupted. {effect}",
        code="interrupted",
        remedy="Run the command again.",
        exit_status=_INTERRUPTED,
    )


def clock_error(error: OverflowError) -> Exception:
    """Return the error for a clock that Python cannot read; the same one if it can."""
    try:
        time.time()
    except OverflowError:
        return TokenStorageError(
            "The clock of this machine shows a time that Python cannot use: before 1678 or after "
            "2262.",
            code="bad-clock",
            remedy="Set the clock (timedatectl set-ntp true), then try again; nothing was changed.",
        )
    return error


def installation_error(error: ImportError) -> Exception:
    """Return the reason why a module cannot be imported, as far as the installation shows it."""
    from nextcloud_mcp_server.schema.history import locate_scripts  # noqa: PLC0415

    try:
        # A zipapp may contain its dependencies, but no compiled module is loaded from one.
        locate_scripts()
    except TokenStorageError as reason:
        return reason
    module = sys.modules.get((error.name or "").partition(".")[0])
    places = [*getattr(module, "__path__", ()), getattr(module, "__file__", None)]
    found = next((str(place) for place in places if place), "")
    if not found:
        return error
    return TokenStorageError(
        f"{unexpected(error)}; {error.name} is {found}.",
        code="unexpected",
        remedy="If that is not the library of this name, rename it, or take its folder out of "
        "PYTHONPATH; otherwise install this package again.",
    )


def _unwritten(error: OSError) -> TokenStorageError:
    return TokenStorageError(
        f"The result could not be written to stdout ({error.strerror}).",
        code="io-error",
        remedy="Send stdout to a terminal or to a disk with free space. What the command did is "
        "complete, so do not repeat a change only to see its result.",
    )


def error_facts(error: BaseException) -> dict[str, str]:
    """Return an error as ``--json`` prints it."""
    if isinstance(error, TokenStorageError):
        return error.as_dict()
    if is_usage(error):
        message, remedy = _usage(error)
        return {"code": "bad-input", "message": message, "remedy": remedy}
    remedy = describe_error(error)[1].removeprefix("remedy: ")
    return {"code": "unexpected", "message": unexpected(error), "remedy": remedy}


def _usage_lines(error: click.ClickException) -> tuple[str, str]:
    message, remedy = _usage(error)
    return f"error: {message} [bad-input]", f"remedy: {remedy}"


def _usage(error: click.ClickException) -> tuple[str, str]:
    """Return the message and the remedy."""
    text = "A command is missing." if is_help(error) else error.format_message()
    context = getattr(error, "ctx", None)
    command = PROGRAM if context is None else context.command_path
    remedy = getattr(error, "remedy", "") or f"See what it takes: {command} --help"
    return printable(" ".join(text.split())), printable(remedy)


def is_help(error: BaseException) -> bool:
    """Return whether the message of click's error is a complete help text."""
    return type(error).__name__ == "NoArgsIsHelpError"


def is_usage(error: BaseException) -> TypeGuard[click.ClickException]:
    """Return whether click could not parse the arguments."""
    click = sys.modules.get("click")
    return click is not None and isinstance(error, getattr(click, "ClickException", ()))


def is_abort(error: BaseException) -> bool:
    """Return whether the error is Ctrl-C, as click or as Python raises it."""
    click = sys.modules.get("click")
    # Another file of that name may be in its place, in the working directory for example.
    return isinstance(error, (KeyboardInterrupt, getattr(click, "Abort", KeyboardInterrupt)))


def _coloured(line: str) -> str:
    label, colon, rest = line.partition(":")
    return _in_colour(f"{label}{colon}", _COLOURS.get(label), sys.stderr) + rest


def _in_colour(text: str, colour: int | None, stream: TextIO | None) -> str:
    if colour is None or stream is None or not stream.isatty():
        return text
    from nextcloud_mcp_server.settings.process import wants_colour  # noqa: PLC0415 - errors may come first

    return f"\x1b[{colour}m{text}\x1b[0m" if wants_colour() else text
