"""Profiles of users from the identity provider, stored with the refresh token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import bindparam, select, update

from nextcloud_mcp_server.auth import validation as valid
from nextcloud_mcp_server.auth import values
from nextcloud_mcp_server.auth.concern import Concern
from nextcloud_mcp_server.auth.secrets import Reading
from nextcloud_mcp_server.auth.statements import in_row
from nextcloud_mcp_server.backends.base import Row
from nextcloud_mcp_server.schema.secrets import secrets_of
from nextcloud_mcp_server.schema.tables import refresh_tokens
from nextcloud_mcp_server.secret import hidden

_c: Final = refresh_tokens.c
_SECRET: Final = secrets_of("refresh_tokens")["user_profile"]

_STORE: Final = (
    update(refresh_tokens)
    .where(_c.user_id == bindparam("of_user"))
    .values(
        user_profile=bindparam("user_profile"), profile_cached_at=bindparam("profile_cached_at")
    )
)
_GET: Final = select(_c.user_id, _c.user_profile, _c.profile_cached_at, in_row(_c.user_id)).where(
    _c.user_id == bindparam("user_id"), _c.user_profile.is_not(None)
)


@dataclass(frozen=True, slots=True)
class UserProfile:
    """A cached profile. ``cached_at`` is in seconds since 1970; the repr hides the profile."""

    user_id: str
    profile: dict[str, Any] = field(repr=False)
    cached_at: int | None


class Profiles(Concern):
    """One profile per user, as long as there is a refresh token."""

    _table = "refresh_tokens"

    async def store(self, user_id: str, profile: Mapping[str, Any]) -> bool:
        """Store the profile with the user's refresh token; replaces an older one.

        Returns:
            False, and nothing is stored, if the user has no refresh token.

        Raises:
            TokenStorageError: ``bad-input``: not a dict that JSON can represent.
        """
        profile = hidden(profile)
        now = self._access.now()
        parameters = {
            "of_user": valid.user_id(user_id),
            # What the profile is bound to.
            "user_id": user_id,
            "user_profile": valid.profile(profile),
            "profile_cached_at": now,
        }
        return await self._write(_STORE, parameters, "store_user_profile", user_id, at=now)

    async def get(self, user_id: str) -> UserProfile | None:
        """Return the cached profile and the time of caching, or None.

        Raises:
            TokenStorageError: ``unreadable`` if the stored value is not a JSON object,
                ``corrupt`` if a damaged index leads to the row of another user.
        """
        return await self._get(_GET, {"user_id": valid.user_id(user_id)}, _profile)


def _profile(row: Row, reading: Reading) -> UserProfile:
    of = f"of user {row.user_id!r}"
    return UserProfile(
        user_id=row.user_id,
        profile=values.read_json_dict(
            reading.secret(row, _SECRET, of), f"refresh_tokens.user_profile {of}"
        ),
        cached_at=row.profile_cached_at,
    )
