"""What is let in: every value is checked here before anything is written. Pure.

Each function returns the value in the form that is stored or raises ``bad-input``. The
message names the field and the rule, and never repeats the value: it may be a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NoReturn

from nextcloud_mcp_server.errors import TokenStorageError

FLOW_TYPES: Final = ("hybrid", "flow1", "flow2")

#: The last second of the year 9999, beyond which no calendar of ours can print a time.
LATEST: Final = 253_402_300_799

#: Sizes in bytes of UTF-8.
MAX_USER_ID: Final = 255
MAX_TEXT: Final = 64 * 1024
MAX_SECRET: Final = 1024 * 1024

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LISTS: Final = (list, tuple)
_TEXTS: Final = (str, bytes)
_SCOPE: Final = re.compile(r"[^\s\x00-\x1f\x7f-\x9f]+")


def user_id(value: str) -> str:
    """1 to 255 bytes of UTF-8 without control characters."""
    return text(value, "user_id", limit=MAX_USER_ID)


def text(value: str, field: str, *, limit: int = MAX_TEXT) -> str:
    """Non-empty, without control characters, at most ``limit`` bytes of UTF-8."""
    # What is plain ASCII, as nearly all of it is, is known to be good in half of the time.
    if type(value) is str and value.isascii() and value.isprintable() and 0 < len(value) <= limit:
        return value
    _sized(value, field, limit)
    if _CONTROL.search(value):
        _refuse(f"{field} holds a control character")
    return value


def optional_text(value: str | None, field: str, *, limit: int = MAX_TEXT) -> str | None:
    """The same, or None."""
    return None if value is None else text(value, field, limit=limit)


def secret(value: str, field: str) -> str:
    """Non-empty text of at most 1 MiB of UTF-8, to be sealed."""
    _sized(value, field, MAX_SECRET)
    return value


def optional_plain_secret(value: str | None, field: str) -> str | None:
    """A secret for a column that is not sealed, or None. PostgreSQL's text holds no NUL."""
    if value is None:
        return None
    if "\x00" in secret(value, field):
        _refuse(f"{field} holds a NUL character")
    return value


def seconds(value: object, field: str) -> int:
    """Whole seconds since 1970, up to the year 9999."""
    # bool is an int, and a float may be NaN or hold a fraction that a BIGINT drops.
    if not isinstance(value, int) or isinstance(value, bool):
        _refuse(f"{field} is not whole seconds: an int is needed")
    if not 0 <= value <= LATEST:
        _refuse(f"{field} is outside 0 to {LATEST} seconds")
    return int(value)


def optional_seconds(value: int | None, field: str) -> int | None:
    """The same, or None."""
    return None if value is None else seconds(value, field)


def count(value: object, field: str, most: int) -> int:
    """An int from 1 to ``most``."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        _refuse(f"{field} is not an int from 1 to {most}")
    return int(value)


def flow_type(value: str) -> str:
    """One of the flows that the releases know."""
    if value not in FLOW_TYPES:
        _refuse(f"flow_type is none of {', '.join(FLOW_TYPES)}")
    return value


def scopes(value: Sequence[str] | None, field: str = "scopes") -> tuple[str, ...] | None:
    """A list of scopes, each non-empty and without white space or control characters."""
    if value is None:
        return None
    if not _are_scopes(found := _list(value, field)):
        _refuse(f"{field} holds one that is empty or has white space or control characters")
    return found


@lru_cache(maxsize=64)
def _are_scopes(found: tuple[str, ...]) -> bool:
    # Remembered, because almost everybody grants the same.
    return all(map(_SCOPE.fullmatch, found))


def texts(value: Sequence[str], field: str) -> tuple[str, ...]:
    """A list of non-empty texts without control characters."""
    for item in (found := _list(value, field)):
        text(item, f"an item of {field}")
    return found


def profile(value: Mapping[str, Any]) -> str:
    """A dict that JSON can hold, as the JSON text that is stored."""
    if not isinstance(value, dict):
        _refuse("profile is not a dict")
    encoded = _json(value)
    if encoded is None or not _has_text_keys(value):
        _refuse("profile cannot be written as JSON: text keys, no NaN, no cycles, no objects")
    return text(encoded, "profile", limit=MAX_SECRET)


def flag(value: bool, field: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        _refuse(f"{field} is neither True nor False")
    return value


def _sized(value: str, field: str, limit: int) -> None:
    if not isinstance(value, str):
        _refuse(f"{field} is not text")
    if not value:
        _refuse(f"{field} is empty")
    size = _size(value)
    if size is None:
        _refuse(f"{field} holds a lone surrogate, which UTF-8 cannot write")
    if size > limit:
        _refuse(f"{field} is longer than {limit} bytes")


def _list(value: Sequence[str], field: str) -> tuple[str, ...]:
    # To ask whether a list is a Sequence takes longer than all that follows.
    if not isinstance(value, _LISTS) and (
        isinstance(value, _TEXTS) or not isinstance(value, Sequence)
    ):
        _refuse(f"{field} is not a list of texts")
    found = tuple(value)
    if not all(isinstance(item, str) for item in found):
        _refuse(f"{field} is not a list of texts")
    size = _size("".join(found))
    if size is None:
        _refuse(f"{field} holds a lone surrogate, which UTF-8 cannot write")
    if size > MAX_TEXT:
        _refuse(f"{field} is longer than {MAX_TEXT} bytes")
    return found


# These answer None instead of raising inside ``except``: the errors of the codecs carry the
# value, and an error raised there would carry it along as its context.
def _size(value: str) -> int | None:
    try:
        return len(value.encode("utf-8"))
    except UnicodeEncodeError:
        return None


def _json(value: Mapping[str, Any]) -> str | None:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None


def _has_text_keys(value: Mapping[str, Any]) -> bool:
    # json writes the key 1 as "1", so that what comes back is not what was stored.
    left: list[Any] = [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            if not all(isinstance(key, str) for key in item):
                return False
            left.extend(item.values())
        elif isinstance(item, list | tuple):
            left.extend(item)
    return True


def _refuse(rule: str) -> NoReturn:
    raise TokenStorageError(
        f"{rule}.", code="bad-input", remedy="Correct the value; nothing was written."
    )
