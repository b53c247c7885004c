"""Errors of PostgreSQL as errors of this package.

The SQLSTATE decides, never the class: after a connection is lost psycopg may raise any. Errors of
connecting have none, and their text is in the language of the server.
"""

from __future__ import annotations

from typing import Final

import psycopg

from nextcloud_mcp_server.backends.postgresql.connect import reason, unreachable
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.errors import named as system_named
from nextcloud_mcp_server.filesystem.server_url import ServerUrl

#: The codes of SQLSTATEs, whole or by class (their first two characters).
#: https://www.postgresql.org/docs/current/errcodes-appendix.html
_CODES: Final = {
    "08": "unreachable",
    "22": "bad-input",
    "2200H": "inconsistent",
    "23": "bad-input",
    "23505": "conflict",
    "25006": "read-only",
    "28": "unreachable",
    "3D000": "unreachable",
    "40": "lock-timeout",
    "42501": "missing-grant",
    "53100": "disk-full",
    "53300": "unreachable",
    "55P03": "lock-timeout",
    "57014": "lock-timeout",
    "57P": "unreachable",
    "58030": "io-error",
    "XX001": "corrupt",
    "XX002": "corrupt",
}

_PRIMARY: Final = (
    "Name the primary server, or let libpq find it: add target_session_attrs=read-write to a URL "
    "with all hosts. If this is the primary, set default_transaction_read_only off for this role "
    "and database."
)

#: The message and the remedy of each code.
_TEXTS: Final = {
    "bad-input": (
        "{url} does not take a value (SQLSTATE {state}).",
        "Store another value, or remove the constraint or trigger that an operator added.",
    ),
    "conflict": (
        "A row with the same unique value is in {url} already.",
        "Use a value that is not taken, or delete the other row first.",
    ),
    "corrupt": (
        "{url} is damaged: {reason}.",
        "Stop every server of this program, and restore the database from a dump or a replica.",
    ),
    "disk-full": (
        "The disk of {url} is full.",
        "Free space there, then try again; nothing was lost.",
    ),
    "inconsistent": (
        "The tables of {url} were changed so that this program cannot use them ({reason}).",
        "See what was changed: nextcloud-mcp-server db doctor {option}",
    ),
    "io-error": (
        "The server of {url} reported an error of its disk ({reason}).",
        "Check its disk and its log, then try again; what was committed is kept.",
    ),
    "lock-timeout": (
        "{url} did not answer in time, because another transaction holds a lock ({reason}).",
        (
            "Let that transaction finish, or end it (SELECT pid, query FROM pg_stat_activity; "
            "SELECT pg_terminate_backend(PID)), then try again."
        ),
    ),
    "missing-grant": (
        "This role lacks a permission at {url}: {reason}.",
        "See which one: nextcloud-mcp-server db doctor {option}",
    ),
    "read-only": (
        "{url} takes no write: {reason}.",
        _PRIMARY,
    ),
}


def named(error: BaseException, url: ServerUrl) -> TokenStorageError | None:
    """Return the named error for an exception; None if it has another cause."""
    if isinstance(error, TokenStorageError):
        return error
    driver = driver_error(error)
    if not isinstance(driver, psycopg.Error):
        return system_named(driver, str(url))
    state = driver.sqlstate or ""
    if not state and isinstance(driver, psycopg.OperationalError | psycopg.InterfaceError):
        return unreachable(url, driver)
    code = _CODES.get(state) or _CODES.get(state[:3]) or _CODES.get(state[:2])
    if code == "unreachable":
        return unreachable(url, driver)
    return _from_text(code, url, driver) if code else None


def always_named(error: Exception, url: ServerUrl) -> TokenStorageError | None:
    """Return the named error for an exception; every error of the driver has one.

    For the running store, whose statements match the schema at head.
    """
    if (known := named(error, url)) is not None:
        return known
    driver = driver_error(error)
    return _from_text("inconsistent", url, driver) if isinstance(driver, psycopg.Error) else None


def driver_error(error: BaseException) -> BaseException:
    """Return the exception of the driver behind one of SQLAlchemy, or the exception itself."""
    original = getattr(error, "orig", None)
    return original if isinstance(original, BaseException) else error


def remove_values(error: BaseException) -> None:
    """Keep the first line alone of what a server says, in an error and in all that led to it.

    Its detail is the whole row that a constraint refuses, decrypted in a downgrade. What SQLAlchemy
    raises has the same text.
    """
    pending: list[object] = [error]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, psycopg.Error) and one.diag.message_primary:
            # The value that a type does not take is at its end.
            text, _, _ = one.diag.message_primary.partition(': "')
            one.args, one._info = (text,), None
        original = getattr(one, "orig", None)
        if isinstance(original, psycopg.Error):
            remove_values(original)
            one.args = (f"({type(original).__name__}) {original}",)
        pending += [one.__cause__, one.__context__]


def is_lock_conflict(error: BaseException) -> bool:
    """Return whether a statement gave up the wait for a lock, or was chosen in a deadlock."""
    seen: BaseException | None = error
    while seen is not None:
        if getattr(driver_error(seen), "sqlstate", None) in {"55P03", "40P01", "40001"}:
            return True
        seen = seen.__cause__
    return False


def _from_text(code: str, url: ServerUrl, error: psycopg.Error) -> TokenStorageError:
    message, remedy = _TEXTS[code]
    # The message of a value that is refused contains it.
    values = {
        "url": url,
        "option": url.option,
        "reason": reason(error),
        "state": error.sqlstate or "",
    }
    return TokenStorageError(message.format(**values), code=code, remedy=remedy.format(**values))


def not_writable(url: ServerUrl, why: str) -> TokenStorageError:
    """Return the error for a change that the server does not take."""
    return TokenStorageError(
        f"{url} has to be changed, and {why}.",
        code="read-only",
        remedy=_PRIMARY,
    )
