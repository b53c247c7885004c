"""What people read about a start and about an error, the same from a command and the server.

Pure: no database is opened, and nothing printed, here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.state import Action

if TYPE_CHECKING:
    from nextcloud_mcp_server.startup import Outcome

#: The most characters of a foreign message that are repeated.
_LONGEST: Final = 200

#: Passwords in URLs, Fernet tokens and Fernet keys, wherever a foreign message repeats them.
_SECRETS: Final = r"(?<=://)[^/\s]+@|gAAAA[\w=-]{20,}|(?<![\w-])[\w-]{43}="


def printable(text: str) -> str:
    r"""``text`` on one line, without anything that a terminal would obey.

    A file may have any name: line breaks, escape sequences and bytes that are no text
    become ``\n``, ``\x1b`` and ``\udc..``.
    """
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "backslashreplace").decode("ascii")
        for character in text
    )


def describe_outcome(outcome: Outcome) -> str:
    """One line on what a start found and did, in how long, and where the backup lies."""
    return "; ".join(outcome_lines(outcome))


def outcome_lines(outcome: Outcome) -> tuple[str, ...]:
    """As :func:`describe_outcome`, the place of the backup in a line of its own."""
    line = printable(_done(outcome))
    if outcome.action is not Action.NOTHING:
        line = f"{line} in {outcome.seconds:.2f} s"
    return (line, *backup_line(outcome.backup))


def backup_line(backup: object) -> tuple[str, ...]:
    """The line on a backup; none where there was nothing to keep."""
    return () if backup is None else (f"backup: {printable(str(backup))}",)


def _done(outcome: Outcome) -> str:
    path, mended = outcome.database, _mended(outcome)
    if outcome.action is Action.CREATE:
        return f"created {path} at revision {outcome.after}"
    if outcome.action is Action.STAMP:
        upgraded = f" and upgraded it to {outcome.after}" if outcome.steps else ""
        return f"stamped {path} with {outcome.before}{upgraded}{mended}"
    if outcome.action is Action.UPGRADE:
        return f"upgraded {path} from {outcome.before} to {outcome.after}{mended}"
    if outcome.action is Action.MEND:
        what = mended or " (put the version table in order)"
        return f"mended {path} at revision {outcome.after}{what}"
    return f"{path} is at revision {outcome.after} already: nothing to do"


def _mended(outcome: Outcome) -> str:
    return f" ({', '.join(outcome.mended)})" if outcome.mended else ""


def describe_error(error: BaseException) -> tuple[str, str]:
    """What is wrong and what to do, in a line each, as they are printed.

    An error that is not one of :mod:`nextcloud_mcp_server.errors` is told by its type and
    the first line of its message, shortened and without secrets.
    """
    if isinstance(error, TokenStorageError):
        return f"error: {with_code(error)}", f"remedy: {printable(error.remedy)}"
    return (
        f"unexpected error: {printable(unexpected(error))}",
        "remedy: run it again as 'nextcloud-mcp-server --debug ...', and report what it prints",
    )


def traceback_lines(error: BaseException) -> list[str]:
    """Where an error comes from, to be followed by :func:`describe_error`, which has the remedy."""
    import traceback  # noqa: PLC0415 - takes longer to import than a look takes

    told = traceback.TracebackException.from_exception(error)
    if isinstance(error, TokenStorageError):
        remedy = f"remedy: {error.remedy}"
        told.__notes__ = [note for note in told.__notes__ or () if note != remedy]
    return [printable(line) for line in "".join(told.format()).splitlines()]


def with_code(error: TokenStorageError) -> str:
    """What is wrong on one line, and the code by which ``docs/errors.md`` explains it."""
    return f"{printable(error.message)} [{error.code}]"


def unexpected(error: BaseException) -> str:
    """The type and the first line of the message of an error that nobody has named."""
    first = str(error).strip().partition("\n")[0].strip()
    text = re.sub(_SECRETS, "***", first)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
