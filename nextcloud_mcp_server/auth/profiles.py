"""Profiles of users, as the identity provider gave them, kept beside the refresh token."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, select, update

from nextcloud_mcp_server.auth import validation as valid
from nextcloud_mcp_server.auth import values
from nextcloud_mcp_server.auth.audit import record
from nextcloud_mcp_server.auth.statements import in_row
from nextcloud_mcp_server.schema.tables import refresh_tokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nextcloud_mcp_server.auth.context import Access
    from nextcloud_mcp_server.backends.base import Connection

_c: Final = refresh_tokens.c

_STORE: Final = (
    update(refresh_tokens)
    .where(_c.user_id == bindparam("of_user"))
    .values(
        user_profile=bindparam("user_profile"), profile_cached_at=bindparam("profile_cached_at")
    )
)
_GET: Final = select(_c.user_profile, _c.profile_cached_at, in_row(_c.user_id)).where(
    _c.user_id == bindparam("user_id"), _c.user_profile.is_not(None)
)


@dataclass(frozen=True, slots=True)
class UserProfile:
    """A cached profile. ``cached_at`` is in seconds since 1970; the repr hides the profile."""

    user_id: str
    profile: dict[str, Any] = field(repr=False)
    cached_at: int | None


class Profiles:
    """One profile a user, for as long as there is a refresh token."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def store(self, user_id: str, profile: Mapping[str, Any]) -> bool:
        """Keep the profile beside the user's refresh token, replacing an older one.

        Returns:
            False, and nothing is kept, where the user has no refresh token.

        Raises:
            TokenStorageError: ``bad-input``: not a dict that JSON can hold.
        """
        access, now = self._access, self._access.now()
        parameters = {
            "of_user": valid.user_id(user_id),
            "user_profile": valid.profile(profile),
            "profile_cached_at": now,
        }

        def unit(connection: Connection) -> bool:
            if not connection.run(_STORE, parameters):
                return False
            record(connection, access, "store_user_profile", user_id, at=now)
            return True

        return await access.write(unit)

    async def get(self, user_id: str) -> UserProfile | None:
        """The cached profile and when it was cached, or None.

        Raises:
            TokenStorageError: ``unreadable`` when what is stored is not a JSON object,
                ``corrupt`` where a damaged index leads to another user's.
        """
        key = {"user_id": valid.user_id(user_id)}
        row = await self._access.read(lambda connection: connection.first(_GET, key))
        if row is None:
            return None
        values.check_row(user_id, row.own, "refresh_tokens")
        of = f"refresh_tokens.user_profile of user {user_id!r}"
        return UserProfile(
            user_id=user_id,
            profile=values.read_json_dict(row.user_profile, of),
            cached_at=row.profile_cached_at,
        )
