"""The stored format of values, and reading them. Pure.

A row may have been written by any release, a restored dump or by hand. A value that cannot
be read raises ``unreadable``; it is never treated as absent.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NoReturn

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.secret import hidden


class StoredScopes(tuple[str, ...]):
    """Scopes that were read from a JSON array, which are stored again without a check.

    Old releases stored scopes that are refused today. A refreshed token is stored with the
    scopes that it had; if they were refused then, the grant would be lost.
    """

    __slots__ = ()


def json_list(items: Sequence[str] | None) -> str | None:
    """Return a JSON array; None for None."""
    return None if items is None else _json_list(tuple(items))


@lru_cache(maxsize=64)
def _json_list(items: tuple[str, ...]) -> str:
    # Cached, because almost all users grant the same scopes.
    return json.dumps(items)


def spaced(items: Sequence[str] | None) -> str | None:
    """Join with spaces (RFC 6749, 3.3); None for None."""
    return None if items is None else " ".join(items)


def read_json_list(value: str | None, of: str) -> tuple[str, ...] | None:
    """Return the texts of a JSON array; None for NULL."""
    if value is None:
        return None
    items = _texts(value)
    return _unreadable(of, "a JSON array of texts") if items is None else items


def read_scopes(value: str | None, of: str) -> StoredScopes | None:
    """Return the scopes of a JSON array; None for NULL."""
    scopes = read_json_list(value, of)
    return None if scopes is None else StoredScopes(scopes)


@lru_cache(maxsize=64)
def _texts(value: str) -> tuple[str, ...] | None:
    items = _parsed(value)
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        return None
    return tuple(items)


def read_json_dict(value: str, of: str) -> dict[str, Any]:
    """Return a JSON object."""
    parsed = hidden(_parsed(value))
    return dict(parsed) if isinstance(parsed, dict) else _unreadable(of, "a JSON object")


def read_spaced(value: str | None) -> tuple[str, ...] | None:
    """Split at white space; None for NULL."""
    return None if value is None else tuple(value.split())


def read_seconds(value: object, of: str) -> int:
    """Return whole seconds. SQLite stores other values too, regardless of the column type."""
    return value if isinstance(value, int) else _unreadable(of, "whole seconds")


def read_optional_seconds(value: object, of: str) -> int | None:
    """Return whole seconds; None for NULL."""
    return None if value is None else read_seconds(value, of)


def check_row(asked: Collection[str], own: str | None, table: str, *, secret: bool = False) -> None:
    """Check that the index led to the row with the key that was looked up.

    Args:
        asked: the forms in which the key can be stored.
        own: the key of the row.
        table: its table.
        secret: whether the key is a credential, so that the message does not show it, and that
            it is compared in constant time.

    Raises:
        TokenStorageError: ``corrupt`` if a damaged index led to another row.
    """
    if secret:
        read = _encoded(own)
        is_asked = bool(sum(hmac.compare_digest(read, _encoded(one)) for one in asked))
    else:
        is_asked = own in asked
    if not is_asked:
        name = "an id" if secret else repr(next(iter(asked)))
        raise TokenStorageError(
            f"The index of {table} is damaged: its entry for {name} leads to another row.",
            code="corrupt",
            remedy="Stop every server and restore the newest good backup; keep the damaged file.",
        )


def _encoded(key: object) -> bytes:
    # Not str() of a text: that of a hidden one is another.
    text = key if isinstance(key, str) else "" if key is None else str(key)
    return text.encode("utf-8", "surrogatepass")


def _parsed(value: str) -> Any:
    # Returns None instead of raising inside ``except``: a JSONDecodeError contains the
    # complete text, and would become the context of the error raised there.
    with suppress(TypeError, ValueError, RecursionError):
        return json.loads(value)
    return None


def _unreadable(of: str, form: str) -> NoReturn:
    raise TokenStorageError(
        f"{of} is not {form}.",
        code="unreadable",
        remedy="Correct or delete the row, or restore it from a backup.",
    )
