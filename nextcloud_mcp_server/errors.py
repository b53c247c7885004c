"""Errors for people: a code, a message, a remedy and an exit status, and how they are printed.

The codes are part of the public interface. They are documented in ``docs/errors.md`` and
appear in the ``--json`` output of the commands and in :attr:`TokenStorageError.code`.
"""

from __future__ import annotations

import re
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

#: Every code, with the first sentence of its entry in ``docs/errors.md``.
CODES: Final = MappingProxyType(
    {
        "unknown-revision": "The database records a revision that this program does not know.",
        "ambiguous-version": "The version table contains several conflicting revisions.",
        "inconsistent": "The version row does not match the tables and cannot be repaired safely.",
        "foreign": "The file is another application's database.",
        "corrupt": "SQLite finds damage in the file.",
        "not-a-database": "The file is not an SQLite database.",
        "orphaned": "A -wal or -journal beside the file belongs to another file or to none.",
        "lock-timeout": "Another process held the lock for longer than the timeout.",
        "lock-unavailable": "The file system does not support locks, and a migration is pending.",
        "in-use": "A server is using the database that the command would replace.",
        "replaced": "The file that a store has open was moved, deleted or replaced.",
        "interrupted": "The start was stopped before it was complete.",
        "migration-failed": "A migration failed and was rolled back; the database is unchanged.",
        "backup-failed": "The backup could not be made or verified; nothing was migrated.",
        "bad-backup": "The file cannot be restored: it is not an intact backup of this program.",
        "upgrade-pending": "The command needs a database at head, and an upgrade is pending.",
        "no-migrations": "The migration scripts of this program cannot be found.",
        "not-a-checkout": "The command writes source files and needs a checkout of the project.",
        "key-missing": "The database holds encrypted values and no key was given.",
        "wrong-key": "The key that encrypts this database was not given.",
        "keys-changed": "The registered keys were changed by somebody without the key.",
        "malformed-key": "An encryption key is not a Fernet key.",
        "key-needed": "A stored value needs the key that the command would retire.",
        "undecryptable": "A stored secret cannot be decrypted with any of the given keys.",
        "unreadable": "A stored value does not have the expected format.",
        "disk-full": "The disk is full.",
        "io-error": "The operating system reported an error while reading or writing.",
        "read-only": "The database, its folder or its disk cannot be written.",
        "untrusted": "Another user can have put a file there, or changed it.",
        "bad-path": "The path of the database cannot be used.",
        "bad-input": "A value was refused before anything was written.",
        "conflict": "Another row already has the value.",
        "ignored": "The database acknowledged a write and did not carry it out.",
        "not-open": "The store was used before it was opened or after it was closed.",
        "no-thread": "The operating system refuses to start a thread.",
        "bad-clock": "The clock of the machine shows a time that Python cannot use.",
        "old-sqlite": "The SQLite that Python uses is too old.",
        "no-asyncio": "The store was called outside of an event loop of asyncio.",
        "unsupported-database": "The database URL names an engine that this version cannot use.",
        "forked": "The store was opened before this process was forked.",
        "declined": "The confirmation was refused, or was not possible.",
        "unexpected": "An error that has no code of its own.",
        "cannot-listen": "The address to serve on is in use or not allowed.",
        "unreachable": "The database server does not answer, or refuses the connection.",
        "no-schema": "The database server has no schema that this role can use.",
        "missing-grant": "The role at the database server lacks a permission.",
        "outcome-unknown": "The connection was lost during a commit, which may have happened.",
        "reconnect": "Nextcloud refused the app password, and it is not tried again.",
        "account-disabled": "The account is disabled in Nextcloud.",
        "maintenance": "Nextcloud is in maintenance mode.",
        "throttled": "Nextcloud refuses requests from this address for a time.",
        "app-missing": "An app is not enabled in Nextcloud, or not for this account.",
        "moved": "Nextcloud redirects to another address.",
        "not-found": "Nextcloud has no such file, note, calendar or event.",
        "changed": "Somebody changed the item in Nextcloud since it was read.",
        "exists": "Nextcloud already has an item of this name.",
        "over-quota": "The account has no space left in Nextcloud.",
        "no-connection": "Nextcloud does not answer at its address.",
        "timeout": "Nextcloud did not answer in time; a change may have happened.",
        "too-large": "The content is larger than this server reads or writes.",
        "not-nextcloud": "The address answers, but not as Nextcloud does.",
        "forbidden": "Nextcloud does not allow this to this account.",
        "not-text": "The file is not text in UTF-8.",
        "no-trash": "Nextcloud has no trash bin, so a deleted file or event would be lost.",
        "nextcloud-failed": "Nextcloud answered with an error of its own.",
    }
)


#: The exit status for a malformed value on the command line, whatever the database is.
WRONG_USAGE: Final = 2


class TokenStorageError(Exception):
    """Every error that this package raises on purpose.

    Its traceback ends with the code and the remedy.

    Args:
        message: one line: what is wrong, with the path or name.
        code: a key of :data:`CODES`.
        remedy: one line: what to do, with the command to type if there is one.
        exit_status: the exit status of a command that fails with this error.
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
        # By default pickling drops keyword-only arguments, and a worker process must be
        # able to raise this error.
        rebuild = partial(
            type(self), code=self.code, remedy=self.remedy, exit_status=self.exit_status
        )
        return (rebuild, (self.message,))

    def as_dict(self) -> dict[str, str]:
        """Return the values for ``--json``."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy}


class KeyNotGivenError(TokenStorageError):
    """A stored value is intact, and encrypted with a key that was not given."""


def is_damaged(error: TokenStorageError) -> bool:
    """Check whether a stored value is lost, so that the person has to sign in again."""
    return error.code in {"undecryptable", "unreadable"} and not lacks_key(error)


def lacks_key(error: TokenStorageError) -> bool:
    """Check whether only the operator can help, who has to give the right keys."""
    return isinstance(error, KeyNotGivenError) or error.code in {"wrong-key", "keys-changed"}


# Errors that several packages raise.

#: What people and clients are told if the server lacks a key.
SERVER_PROBLEM: Final = (
    "This server has a problem that only its operator can solve. Nothing is lost, and to sign in "
    "again does not help."
)

#: What people and clients are told instead of an error of the store, which names the database.
STORE_UNAVAILABLE: Final = "This server cannot use its database at the moment."


def not_open() -> TokenStorageError:
    """Return the error for the use of a store that is not open."""
    return TokenStorageError(
        "The token store is not open.",
        code="not-open",
        remedy="Await initialize() first, or use it inside `async with RefreshTokenStorage(...)`.",
    )


def is_no_thread(error: RuntimeError) -> bool:
    """Check whether ``error`` is that of a thread that cannot be started."""
    # "can't start new thread"; at the exit of the interpreter "can't create new thread at ..."
    return "new thread" in str(error)


def no_thread() -> TokenStorageError:
    """Return the error for a thread that cannot be started."""
    return TokenStorageError(
        "The operating system refuses to start another thread.",
        code="no-thread",
        remedy="Raise the limit on threads (ulimit -u; in a container the limit on pids) or the "
        "memory limit, then try again.",
    )


def no_asyncio() -> TokenStorageError:
    """Return the error for a call outside of an event loop of asyncio."""
    return TokenStorageError(
        "The token store needs an event loop of asyncio, and none is running here.",
        code="no-asyncio",
        remedy='Run the server on asyncio, not on trio: "hypercorn -k asyncio", '
        'TestClient(..., backend="asyncio"), or an anyio_backend that returns "asyncio".',
    )


def no_real_thread() -> TokenStorageError:
    """Return the error for threads that all run in one thread of the operating system."""
    return TokenStorageError(
        "A migration runs an event loop of asyncio in a thread of its own, and threads were "
        "replaced here, as gevent does (monkey.patch_all()).",
        code="no-asyncio",
        remedy="Leave threads and their queues as they are: monkey.patch_all(thread=False, "
        "queue=False) - or migrate in a process without gevent before the application starts.",
    )


# Parts of messages.


def counted(number: int, thing: str) -> str:
    """Return ``1 row``, ``2 rows``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def moment(when: datetime) -> str:
    """Return a time in UTC as every message and table prints it."""
    return when.strftime("%Y-%m-%d %H:%M:%SZ")


def for_shell(path: Path | str) -> str:
    """Quote ``path`` for a command line."""
    # Imported here, because most commands print no path.
    import shlex  # noqa: PLC0415

    return shlex.quote(str(path))


#: Characters that show nothing, beside those of the categories Cc, Cf, Zl and Zp: fillers of
#: Hangul, the joiner U+034F, an empty cell of Braille, and a byte order mark read the wrong way.
_BLANK: Final = "\u034f\u115f\u1160\u2800\u3164\uffa0\ufffe"

#: They join letters, or parts of a picture, and stand inside names of several languages.
_JOINERS: Final = "\u200c\u200d"


def invisible(text: str) -> str:
    """Return the first invisible character of ``text`` as ``U+FEFF``; empty if there is none.

    White space is no such character inside, and a no-break space is one at the ends.
    """
    if text.isascii() and text.isprintable():
        return ""
    import unicodedata  # noqa: PLC0415 - rarely needed

    text = legible(text)
    inside = len(text.lstrip()), len(text.rstrip())
    for place, character in enumerate(text):
        hidden = unicodedata.category(character) in {"Cc", "Cf", "Zl", "Zp"}
        if character in _JOINERS:
            around = text[max(place - 1, 0) : place] + text[place + 1 : place + 2]
            hidden = len(around) < 2 or any(map(str.isascii, around))  # noqa: PLR2004 - two sides
        elif character.isspace() and not character.isascii():
            hidden = hidden or place >= inside[1] or place < len(text) - inside[0]
        if hidden or character in _BLANK:
            return f"U+{ord(character):04X}"
    return ""


def visible(text: str) -> str:
    """Return ``text`` without its invisible characters; white space stays."""
    if text.isascii() and text.isprintable():
        return text
    import unicodedata  # noqa: PLC0415 - rarely needed

    return "".join(
        character
        for character in text
        if character.isspace()
        or (unicodedata.category(character) not in {"Cc", "Cf"} and character not in _BLANK)
    )


#: The maximum length of a value that another program stored, in a message.
_SHORT: Final = 60


def shortened(text: str) -> str:
    """Return the first 60 characters of ``text``, with dots if there are more."""
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}..."


# Printing.

#: The maximum length of a message that comes from another library.
_LONGEST: Final = 200

#: A Fernet key, also in plain base64.
_KEY: Final = (
    r"(?:(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{43}|(?<![A-Za-z0-9+])[A-Za-z0-9+/]{43})=(?![A-Za-z0-9=])"
)

#: The characters of one, with its equals sign.
_KEY_LENGTH: Final = 44

#: A password in a URL, or whatever is before the host; a user alone only in one of a server.
_IN_URL: Final = (
    r"(?<=://)(?<!postgresql://)[^/\s]+@|(?<=postgresql://)[^/\s:@]*:\S*@|(?<=password=)[^&\s]+"
)

#: Passwords in URLs, Fernet tokens and Fernet keys: removed from such a message.
_SECRETS: Final = rf"{_IN_URL}|gAAAA[\w=-]{{20,}}|{_KEY}"


def describe_error(error: BaseException) -> tuple[str, str]:
    """Return the error and its remedy, one line each.

    For an error of another type, the line is its type and the first line of its message.
    """
    if isinstance(error, TokenStorageError):
        return f"error: {with_code(error)}", f"remedy: {printable(error.remedy)}"
    return (
        f"unexpected error: {printable(unexpected(error))}",
        "remedy: run it again as 'nextcloud-mcp-server --debug ...', and report what it prints",
    )


def traceback_lines(error: BaseException) -> list[str]:
    """Return the lines of the traceback, without the remedy: :func:`describe_error` follows."""
    import traceback  # noqa: PLC0415 - slow to import

    lines = traceback.TracebackException.from_exception(error)
    if isinstance(error, TokenStorageError):
        remedy = f"remedy: {error.remedy}"
        lines.__notes__ = [note for note in lines.__notes__ or () if note != remedy]
    return [printable(line) for line in "".join(lines.format()).splitlines()]


def with_code(error: TokenStorageError) -> str:
    """Return the message and the code on one line."""
    return f"{printable(error.message)} [{error.code}]"


def unexpected(error: BaseException) -> str:
    """Return the type and the first line of the message, shortened and without secrets."""
    text = without_secrets(str(error).strip().partition("\n")[0].strip())
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def without_secrets(text: str) -> str:
    """Replace what looks like a password in a URL, a Fernet token or a Fernet key."""
    return re.sub(_SECRETS, "***", text)


def holds_key(text: str) -> bool:
    """Check whether there is a Fernet key in ``text``: one, several, or one in quotes."""
    # Patterns take long to compile, and few paths have such a sign.
    if "=" in text:
        return re.search(_KEY, text) is not None
    # Without the sign, as a double click selects it.
    name = text.rpartition("/")[2].translate({ord("-"): "a", ord("_"): "a"})
    mixed = name != name.lower() and name != name.upper() and any(map(str.isdigit, name))
    return len(name) == _KEY_LENGTH - 1 and name.isascii() and name.isalnum() and mixed


def legible(text: str) -> str:
    """Return a path as it is named in UTF-8: with ``LC_ALL=C`` Python reads it as bytes.

    Bytes that are not UTF-8 stay surrogates.
    """
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # A surrogate that stands for no byte.
        return text


def printable(text: str) -> str:
    r"""Escape every character that a terminal would interpret.

    A file may have any name: line breaks, escape sequences and bytes that are not text
    become ``\n``, ``\x1b`` and ``\udc..``.
    """
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "backslashreplace").decode("ascii")
        for character in legible(text)
    )
