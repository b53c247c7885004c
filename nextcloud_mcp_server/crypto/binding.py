"""What is stored of an id that is a credential, and what a secret is bound to. No I/O."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Final

from nextcloud_mcp_server.crypto.key import associated_data
from nextcloud_mcp_server.schema.forms import HASH
from nextcloud_mcp_server.schema.secrets import HASHED, SecretColumn
from nextcloud_mcp_server.secret import Shown

_HASHED: Final = frozenset(HASHED)


class HashedId(Shown):
    """An id that was read from the database, where only its hash is.

    It finds its row again. The same characters as a plain text do not: a reader of the
    database cannot use a hash in place of the id.
    """

    __slots__ = ()


def hashed(value: str) -> HashedId:
    """Return what is stored of an id: its SHA-256, in urlsafe base64 after ``sha256:``.

    The ids are unguessable, so that neither a salt nor a slow hash is needed.
    """
    if isinstance(value, HashedId):
        return value
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()
    return HashedId(HASH.prefix + base64.urlsafe_b64encode(digest).decode("ascii").rstrip("="))


def stored_id(value: str | bytes) -> HashedId:
    """Return an id of a row as a hash. Released versions have stored the id itself."""
    # A BLOB, in a row that this program did not write.
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
    # Not of a hidden text itself: its str() is another.
    return HashedId(str.__str__(text)) if is_hashed(text) else hashed(text)


def is_hashed(stored: str) -> bool:
    """Return whether a stored id is a hash."""
    return HASH.matches(stored)


def binding(secret: SecretColumn, row: Mapping[str, Any]) -> bytes:
    """Return the associated data of a secret in ``row``, which has the values of its columns."""
    parts = [
        # The key of a table of an early release can be NULL.
        stored_id(row[name])
        if (secret.table, name) in _HASHED and row[name] is not None
        else row[name]
        for name in secret.bound
    ]
    return associated_data(secret.label, *parts)
