"""App passwords: one a user, with the scopes it was granted and the login name it goes with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sqlalchemy import bindparam, delete, select

from nextcloud_mcp_server.auth import validation as valid
from nextcloud_mcp_server.auth import values
from nextcloud_mcp_server.auth.audit import record
from nextcloud_mcp_server.auth.deletion import delete_one
from nextcloud_mcp_server.auth.statements import in_row, upsert
from nextcloud_mcp_server.schema.tables import app_passwords

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nextcloud_mcp_server.auth.context import Access
    from nextcloud_mcp_server.backends.base import Connection, Row

_METHOD: Final = "app_password"
_c: Final = app_passwords.c

_STORE: Final = upsert(
    app_passwords,
    "user_id",
    "encrypted_password",
    "created_at",
    "updated_at",
    "scopes",
    "username",
)
_GET: Final = select(
    _c.user_id,
    _c.encrypted_password,
    _c.created_at,
    _c.updated_at,
    _c.scopes,
    _c.username,
    in_row(_c.user_id),
).where(_c.user_id == bindparam("user_id"))
# Text keys made by early releases may be NULL: nobody's row.
_USERS: Final = select(_c.user_id).where(_c.user_id.is_not(None))
_DELETE: Final = delete(app_passwords).where(_c.user_id == bindparam("user_id"))


@dataclass(frozen=True, slots=True)
class AppPassword:
    """One user's app password; the repr hides it. Times are whole seconds since 1970.

    ``scopes`` is None where they were never recorded, and empty where none was granted.
    ``username`` is the login name, which may differ from the user id.
    """

    user_id: str
    password: str = field(repr=False)
    scopes: tuple[str, ...] | None
    username: str | None
    created_at: int
    updated_at: int


class AppPasswords:
    """The app passwords of all users, sealed."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def store(
        self,
        user_id: str,
        password: str,
        *,
        scopes: Sequence[str] | None = None,
        username: str | None = None,
    ) -> None:
        """Keep a user's app password. Storing again keeps ``created_at``, replaces the rest.

        Args:
            user_id: 1 to 255 bytes of UTF-8 without control characters.
            password: up to 1 MiB.
            scopes: what was granted: None for "not known", an empty list for "none".
            username: the login name.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written.
        """
        access, now = self._access, self._access.now()
        row = {
            "user_id": valid.user_id(user_id),
            "created_at": now,
            "updated_at": now,
            "scopes": values.json_list(valid.scopes(scopes)),
            "username": valid.optional_text(username, "username"),
            "encrypted_password": access.seal(valid.secret(password, "password")),
        }
        # The two names under which every release recorded it.
        plain = scopes is None and username is None
        event = "store_app_password" if plain else "store_app_password_with_scopes"

        def unit(connection: Connection) -> None:
            connection.run(_STORE, row)
            record(connection, access, event, user_id, at=now, auth_method=_METHOD)

        await access.write(unit)

    async def get(self, user_id: str) -> AppPassword | None:
        """The user's app password, or None where there is none.

        Raises:
            TokenStorageError: ``undecryptable`` or ``unreadable``.
        """
        access = self._access
        key = {"user_id": valid.user_id(user_id)}

        def unit(connection: Connection) -> AppPassword | None:
            row = connection.first(_GET, key)
            # Opened here, off the event loop: that takes longer than the reading.
            return None if row is None else _app_password(row, access)

        return await access.read(unit)

    async def delete(self, user_id: str) -> bool:
        """Delete the user's app password; False where there was none."""
        return await delete_one(
            self._access,
            _DELETE,
            {"user_id": valid.user_id(user_id)},
            event="delete_app_password",
            user_id=user_id,
            auth_method=_METHOD,
        )

    async def list_user_ids(self) -> list[str]:
        """The users who have an app password, in order of code points."""
        rows = await self._access.read(lambda connection: connection.all(_USERS))
        return sorted(row.user_id for row in rows)


def _app_password(row: Row, access: Access) -> AppPassword:
    of = f"of user {row.user_id!r}"
    values.check_row(row.user_id, row.own, "app_passwords")
    return AppPassword(
        user_id=row.user_id,
        password=access.unseal(row.encrypted_password, f"app_passwords.encrypted_password {of}"),
        scopes=values.read_json_list(row.scopes, f"app_passwords.scopes {of}"),
        username=row.username,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
