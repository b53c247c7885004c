"""Every error that a person can see: a code, a message, a remedy and an exit status.

The codes are part of the public contract. They stand in ``docs/errors.md`` (a test
compares the two), in the ``--json`` output of the commands and in
:attr:`TokenStorageError.code`.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path


#: Every code, with the sentence that ``docs/errors.md`` opens its entry with.
CODES: Final = MappingProxyType(
    {
        "unknown-revision": "The database records a revision that this program does not know.",
        "ambiguous-version": "The version table holds several revisions that disagree.",
        "inconsistent": "The version row claims what the tables deny, beyond safe mending.",
        "foreign": "The file is another application's database.",
        "corrupt": "SQLite finds damage in the file.",
        "not-a-database": "The file is not an SQLite database.",
        "lock-timeout": "Somebody else held the database for longer than the deadline.",
        "lock-unavailable": "The file system cannot lock, and there is something to migrate.",
        "in-use": "A server is running on the database that the command would replace under it.",
        "interrupted": "The start was asked to stop before it was done.",
        "migration-failed": "A migration failed and was rolled back; the database is as it was.",
        "backup-failed": "The backup could not be made or did not verify; nothing was migrated.",
        "bad-backup": "The file cannot be restored: it is no whole, unchanged backup of ours.",
        "no-migrations": "The migration scripts of this program cannot be found.",
        "not-a-checkout": "The command writes source files and needs a checkout of the project.",
        "key-missing": "The database holds encrypted values and no key was given.",
        "wrong-key": "None of the given keys opens the encrypted values of this database.",
        "malformed-key": "An encryption key is not a Fernet key.",
        "undecryptable": "One stored secret cannot be opened with any of the given keys.",
        "unreadable": "A stored value does not have the form that every release wrote.",
        "disk-full": "The disk is full.",
        "io-error": "The operating system reported an error while reading or writing.",
        "read-only": "The database, its folder or its disk cannot be written.",
        "bad-path": "The path of the database cannot be used.",
        "bad-input": "A value was refused before anything was written.",
        "conflict": "The value is taken already by another row.",
        "not-open": "The store was used before it was opened or after it was closed.",
        "unsupported-database": "The database URL names an engine that this version cannot use.",
        "declined": "The person who was asked said no, or there was nobody to ask.",
        "unexpected": "Something went wrong that this program has no name for.",
        "cannot-listen": "The address to serve on is taken or not allowed.",
    }
)


class TokenStorageError(Exception):
    """The one exception that this package raises on purpose.

    A traceback of it ends in its code and its remedy.

    Args:
        message: one line for people: what is wrong, with the path or name it is about.
        code: a key of :data:`CODES`.
        remedy: one line: what to do, with the command to type where there is one.
        exit_status: what a command that meets this error exits with.
    """

    def __init__(self, message: str, *, code: str, remedy: str, exit_status: int = 1) -> None:
        if code not in CODES:
            raise ValueError(f"unknown error code {code!r}")
        super().__init__(message)
        self.message = message
        self.code = code
        self.remedy = remedy
        self.exit_status = exit_status
        self.add_note(f"[{code}]")
        self.add_note(f"remedy: {remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by the default pickling, and an error of a
        # worker process must arrive as itself.
        return (_rebuild, (self.message, self.code, self.remedy, self.exit_status))

    def as_dict(self) -> dict[str, str]:
        """The facts that ``--json`` prints."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy}


def for_shell(path: Path) -> str:
    """``path`` as it is typed in a command, whatever is in its name."""
    # Here, because most of what looks has nothing to say about a path.
    import shlex  # noqa: PLC0415

    return shlex.quote(str(path))


def counted(number: int, thing: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _rebuild(message: str, code: str, remedy: str, exit_status: int) -> TokenStorageError:
    return TokenStorageError(message, code=code, remedy=remedy, exit_status=exit_status)


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
