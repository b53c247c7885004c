"""Checks of every value before anything is written. Pure.

Each function returns the value as it is stored, or raises ``bad-input``. The message names
the field and the rule, but not the value, which may be a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, NoReturn

from nextcloud_mcp_server.auth.values import StoredScopes
from nextcloud_mcp_server.crypto.binding import hashed, is_hashed
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.secret import Secret, SecretList, hidden

FLOW_TYPES: Final = ("hybrid", "flow1", "flow2")

#: The last second of the year 9999, the latest that ``datetime`` can represent.
LATEST: Final = 253_402_300_799

#: Sizes in bytes of UTF-8.
MAX_USER_ID: Final = 255
MAX_TEXT: Final = 64 * 1024
MAX_SECRET: Final = 1024 * 1024

#: The least length of an id that is a credential, in characters: 128 bits in base64.
SHORTEST_CREDENTIAL: Final = 22

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LISTS: Final = (list, tuple)
_TEXTS: Final = (str, bytes)
_QUICK: Final = frozenset({str, Secret})
_SCOPE: Final = re.compile(r"[^\s\x00-\x1f\x7f-\x9f]+")


def user_id(value: str) -> str:
    """Check for 1 to 255 bytes of UTF-8 without control characters."""
    return text(value, "user_id", limit=MAX_USER_ID)


def text(value: str, field: str, *, limit: int = MAX_TEXT) -> str:
    """Check for text without control characters, not empty, at most ``limit`` bytes of UTF-8."""
    # A faster check for plain ASCII, which is nearly all of it.
    if (
        value.__class__ in _QUICK
        and value.isascii()
        and value.isprintable()
        and 0 < len(value) <= limit
    ):
        return value
    _sized(value, field, limit)
    if _CONTROL.search(value):
        _refuse(f"{field} contains a control character")
    return value


def optional_text(value: str | None, field: str) -> str | None:
    """Check like :func:`text`; None is allowed."""
    return None if value is None else text(value, field)


def credential(value: str, field: str) -> str:
    """Check like :func:`text`, for an id that must be unguessable."""
    if len(text(value, field)) < SHORTEST_CREDENTIAL:
        _refuse(
            f"{field} has fewer than {SHORTEST_CREDENTIAL} characters: it must be unguessable "
            "(secrets.token_urlsafe())"
        )
    return value


def stored_forms(value: str, field: str) -> dict[str, str]:
    """Check like :func:`text`, and return the parameters of :func:`~.statements.stored_as`.

    :meth:`.Reading.lookups` tells when the id itself is looked up, which released versions have
    stored. A hash must not be used in place of one.
    """
    stored = hashed(text(value, field))
    return {"hashed": stored, "plain": stored if is_hashed(value) else value}


def secret(value: str, field: str) -> str:
    """Check for text that is not empty, at most 1 MiB of UTF-8, to be encrypted."""
    _sized(value, field, MAX_SECRET)
    return value


def optional_secret(value: str | None, field: str) -> str | None:
    """Check like :func:`secret`; None is allowed."""
    return None if value is None else secret(value, field)


def together(**values: object) -> None:
    """Check that all of ``values`` are given, or none: one is bound to the other."""
    if len({value is None for value in values.values()}) > 1:
        _refuse(f"{' and '.join(values)} must be given together")


def seconds(value: object, field: str) -> int:
    """Check for whole seconds since 1970, up to the year 9999."""
    # bool is an int; a float may be NaN, or have a fraction that a BIGINT column drops.
    if not isinstance(value, int) or isinstance(value, bool):
        _refuse(f"{field} is not an int of whole seconds")
    if not 0 <= value <= LATEST:
        _refuse(f"{field} is outside 0 to {LATEST} seconds")
    return int(value)


def optional_seconds(value: int | None, field: str) -> int | None:
    """Check like :func:`seconds`; None is allowed."""
    return None if value is None else seconds(value, field)


def count(value: object, field: str, most: int) -> int:
    """Check for an int from 1 to ``most``."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        _refuse(f"{field} is not an int from 1 to {most}")
    return int(value)


def flow_type(value: str) -> str:
    """Check for one of :data:`FLOW_TYPES`."""
    if value not in FLOW_TYPES:
        _refuse(f"flow_type is not one of {', '.join(FLOW_TYPES)}")
    return value


def scopes(value: Sequence[str] | None, field: str = "scopes") -> tuple[str, ...] | None:
    """Check for a list of scopes, none of them empty or with white space; None is allowed."""
    if value is None:
        return None
    if not _are_scopes(items := _list(value, field)):
        _refuse(f"{field} contains an item that is empty or has white space or control characters")
    return items


def listed_scopes(value: Sequence[str] | None, field: str = "scopes") -> tuple[str, ...] | None:
    """Check scopes for a column with a JSON array; scopes that were read are not checked."""
    return value if isinstance(value, StoredScopes) else scopes(value, field)


@lru_cache(maxsize=64)
def _are_scopes(items: tuple[str, ...]) -> bool:
    # Cached, because almost all users grant the same scopes.
    return all(map(_SCOPE.fullmatch, items))


def texts(value: Sequence[str], field: str) -> tuple[str, ...]:
    """Check for a list of texts, none of them empty or with control characters."""
    for item in (items := _list(value, field)):
        text(item, f"an item of {field}")
    return items


def profile(value: Mapping[str, Any]) -> Secret:
    """Check for a dict that JSON can represent, and return its JSON text."""
    if not isinstance(value, dict):
        _refuse("profile is not a dict")
    encoded = None
    # The error of json is suppressed, so that it is not the context of the one below.
    with suppress(TypeError, ValueError, RecursionError):
        encoded = Secret(json.dumps(value, allow_nan=False))
    if encoded is None or not _has_text_keys(value):
        _refuse("profile cannot be represented in JSON: text keys, no NaN, no cycles, no objects")
    text(encoded, "profile", limit=MAX_SECRET)
    return encoded


def flag(value: bool, field: str) -> bool:
    """Check for True or False."""
    if not isinstance(value, bool):
        _refuse(f"{field} is not True or False")
    return value


def _sized(value: str, field: str, limit: int) -> None:
    if not isinstance(value, str):
        _refuse(f"{field} is not text")
    if not value:
        _refuse(f"{field} is empty")
    _encodable(value, field, limit)


def _list(value: Sequence[str], field: str) -> tuple[str, ...]:
    # Checking a list against Sequence takes longer than all the rest.
    if not isinstance(value, _LISTS) and (
        isinstance(value, _TEXTS) or not isinstance(value, Sequence)
    ):
        _refuse(f"{field} is not a list of texts")
    items = tuple(value)
    if not all(isinstance(item, str) for item in items):
        _refuse(f"{field} is not a list of texts")
    _encodable("".join(items), field, MAX_TEXT)
    return items


def _encodable(value: str, field: str, limit: int) -> None:
    # Refused after the block and not inside ``except``: the error of a codec contains the
    # value, and would become the context of the error raised there.
    with suppress(UnicodeEncodeError):
        if len(value.encode("utf-8")) > limit:
            _refuse(f"{field} is longer than {limit} bytes")
        return
    _refuse(f"{field} contains a lone surrogate, which UTF-8 cannot encode")


def _has_text_keys(value: Mapping[str, Any]) -> bool:
    # json writes the key 1 as "1", so that reading would not return what was stored.
    pending: list[Any] = SecretList([value])
    while pending:
        item = hidden(pending.pop())
        if isinstance(item, dict):
            if not all(isinstance(key, str) for key in item):
                return False
            pending.extend(item.values())
        elif isinstance(item, list | tuple):
            pending.extend(item)
    return True


def _refuse(rule: str) -> NoReturn:
    raise TokenStorageError(
        f"{rule}.", code="bad-input", remedy="Correct the value; nothing was written."
    )
