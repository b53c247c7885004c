"""Secrets with a value of their own, and the search for them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Final

#: What identifies each secret: long enough that no other text has it by chance.
PLANTED: Final[Mapping[str, str]] = {
    name: f"pLaNt3d{number:02}{name.replace(' ', '').upper()}q7Xz{number * 7919:06}"
    for number, name in enumerate(
        (
            *("refresh token", "app password", "client secret", "registration token"),
            *("poll token", "session id", "OAuth session id", "authorization code", "state"),
            *("nonce", "profile", "idp access token", "idp refresh token", "PG password"),
        )
    )
}

#: A key, and an older one: 44 characters of base64 each.
KEYS: Final[Mapping[str, str]] = {
    name: base64.urlsafe_b64encode(f"pLaNt3d-{name:>24}"[:32].encode()).decode()
    for name in ("key", "older key", "wrong key")
}

SECRETS: Final[Mapping[str, str]] = {**PLANTED, **KEYS}

#: What may be found where; a place that is not listed may hold nothing.
ALLOWED: Final[Mapping[str, frozenset[str]]] = {
    # Released versions do not encrypt it, and a downgrade goes back to their format.
    **{f"released {kind}": frozenset({"profile"}) for kind in ("database", "backup", "-wal")},
    "key file": frozenset({"older key"}),
    # The operator has put them there.
    "environment": frozenset(KEYS),
}


def forms(secret: str) -> Iterable[bytes]:
    """Yield a secret as it is, and as an encoding would hide it."""
    raw = secret.encode("ascii")
    yield raw
    yield raw.hex().encode("ascii")
    yield secret.encode("utf-16-le")
    for skipped in range(3):
        # The text may begin at any byte of a longer one.
        part = raw[skipped:]
        part = part[: len(part) // 3 * 3]
        yield base64.b64encode(part)
        yield base64.urlsafe_b64encode(part)
    if secret in KEYS.values():
        yield base64.urlsafe_b64decode(secret)


_FORMS: Final = {name: tuple(forms(secret)) for name, secret in SECRETS.items()}


def found_in(content: bytes) -> set[str]:
    """Return the names of the secrets in ``content``."""
    return {name for name, forms in _FORMS.items() if any(form in content for form in forms)}


def leaks(places: Mapping[str, tuple[str, bytes]]) -> list[str]:
    """Return what is found where it must not be.

    Args:
        places: by name: a kind, as in :data:`ALLOWED`, and the content.
    """
    return [
        f"{name}: {secret}"
        for name, (kind, content) in places.items()
        for secret in sorted(found_in(content) - ALLOWED.get(kind, frozenset()))
    ]
