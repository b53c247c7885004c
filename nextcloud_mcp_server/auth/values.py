"""The written forms of values, and reading them back. Pure.

What a row holds was written by any release, by a restored dump or by hand: what cannot be
read raises ``unreadable`` and is never taken for absence.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from nextcloud_mcp_server.errors import TokenStorageError

if TYPE_CHECKING:
    from collections.abc import Sequence


_BROKEN = object()


def json_list(items: Sequence[str] | None) -> str | None:
    """A JSON array, or None for None."""
    return None if items is None else _json_list(tuple(items))


def json_list_or_null(items: Sequence[str] | None) -> str | None:
    """A JSON array, or None where there is nothing to list."""
    return _json_list(tuple(items)) if items else None


@lru_cache(maxsize=64)
def _json_list(items: tuple[str, ...]) -> str:
    # Almost everybody grants the same scopes, and to write them costs more than to check them.
    return json.dumps(items)


def spaced(items: Sequence[str] | None) -> str | None:
    """One text separated by spaces (RFC 6749, 3.3), or None for None."""
    return None if items is None else " ".join(items)


def read_json_list(value: str | None, of: str) -> tuple[str, ...] | None:
    """The texts of a JSON array, or None for NULL."""
    if value is None:
        return None
    items = _texts(value)
    if items is None:
        _unreadable(of, "a JSON array of texts")
    return items


@lru_cache(maxsize=64)
def _texts(value: str) -> tuple[str, ...] | None:
    # Remembered for the reason that is given above.
    items = _parsed(value)
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        return None
    return tuple(items)


def read_json_dict(value: str, of: str) -> dict[str, Any]:
    """A JSON object."""
    found = _parsed(value)
    if not isinstance(found, dict):
        _unreadable(of, "a JSON object")
    return found


def read_spaced(value: str | None) -> tuple[str, ...] | None:
    """The scopes of a text separated by white space, or None for NULL."""
    return None if value is None else tuple(value.split())


def read_seconds(value: object, of: str) -> int:
    """Whole seconds. SQLite keeps what it was given, whatever the column's type says."""
    if not isinstance(value, int):
        _unreadable(of, "whole seconds")
    return value


def read_optional_seconds(value: object, of: str) -> int | None:
    """The same, or None for NULL."""
    return None if value is None else read_seconds(value, of)


def check_row(asked: str, own: str | None, table: str, *, secret: bool = False) -> None:
    """Insist that the row that was found is the one that was asked for.

    Args:
        asked: the key that was looked up.
        own: the key that is in the row itself.
        table: its name.
        secret: whether whoever knows the key is its owner, so that it is not written out.

    Raises:
        TokenStorageError: ``corrupt`` where a damaged index led to another's row.
    """
    if own != asked:
        whose = shown(asked) if secret else asked
        raise TokenStorageError(
            f"The index of {table} is damaged: it leads to another row than that of {whose!r}.",
            code="corrupt",
            remedy="Stop every server and restore the newest good backup; keep the damaged file.",
        )


def shown(session_id: str) -> str:
    """As much of a session id as a log may show: whoever holds the whole one is logged in."""
    return session_id[:8]


def _parsed(value: str) -> Any:
    # Answers a marker instead of raising inside ``except``: a JSONDecodeError carries the
    # whole text, and the error raised there would carry it along as its context.
    try:
        return json.loads(value)
    except (TypeError, ValueError, RecursionError):
        return _BROKEN


def _unreadable(of: str, form: str) -> NoReturn:
    raise TokenStorageError(
        f"{of} is not {form}.",
        code="unreadable",
        remedy="Correct or delete the row, or restore it from a backup.",
    )
