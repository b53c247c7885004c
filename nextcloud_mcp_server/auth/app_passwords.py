"""App passwords: one per user, with its scopes and login name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import bindparam, delete, or_, select, update

from nextcloud_mcp_server.auth import validation as valid
from nextcloud_mcp_server.auth import values
from nextcloud_mcp_server.auth.concern import Concern, from_row
from nextcloud_mcp_server.auth.secrets import Reading
from nextcloud_mcp_server.auth.statements import in_row, rows_with, upsert
from nextcloud_mcp_server.backends.base import Connection, Row
from nextcloud_mcp_server.schema.secrets import secrets_of
from nextcloud_mcp_server.schema.tables import app_passwords
from nextcloud_mcp_server.secret import hidden

_c: Final = app_passwords.c
_PASSWORD: Final = secrets_of("app_passwords")["encrypted_password"]

_STORE: Final = upsert(app_passwords)
_GET: Final = select(*_c, in_row(_c.user_id)).where(_c.user_id == bindparam("user_id"))
_USERS: Final = rows_with(_c.user_id, _c.user_id)
#: Seconds between two writes of ``last_used_at``.
_RARELY: Final = 60
_TOUCH: Final = (
    update(app_passwords)
    .where(
        _c.user_id == bindparam("user"),
        or_(_c.last_used_at.is_(None), _c.last_used_at <= bindparam("now") - _RARELY),
    )
    .values(last_used_at=bindparam("now"))
)
# Not if another one was stored since: it would be the wrong one.
_REFUSE: Final = (
    update(app_passwords)
    .where(
        _c.user_id == bindparam("user"),
        _c.updated_at == bindparam("stored_at"),
        _c.refused_at.is_(None),
    )
    .values(refused_at=bindparam("now"))
)
_DELETE: Final = delete(app_passwords).where(_c.user_id == bindparam("user_id"))


@dataclass(frozen=True, slots=True)
class AppPassword:
    """One user's app password; the repr hides it. Times are whole seconds since 1970.

    ``scopes`` is None if they were never recorded, and empty if none was granted.
    ``username`` is the login name, which may differ from the user id. ``server`` is the Nextcloud
    that it is for; None if that was never recorded. ``name`` is how Nextcloud lists it.
    ``refused_at`` is when Nextcloud has refused it: it must not be tried again.
    """

    user_id: str
    password: str = field(repr=False)
    scopes: tuple[str, ...] | None
    username: str | None
    server: str | None
    created_at: int
    updated_at: int
    name: str | None = None
    refused_at: int | None = None
    last_used_at: int | None = None


class AppPasswords(Concern):
    """The app passwords of all users, encrypted."""

    _table = "app_passwords"
    _auth_method = "app_password"

    async def store(
        self,
        user_id: str,
        password: str,
        *,
        scopes: Sequence[str] | None = None,
        username: str | None = None,
        server: str | None = None,
        name: str | None = None,
    ) -> None:
        """Store a user's app password. Storing again keeps ``created_at`` only.

        Args:
            user_id: 1 to 255 bytes of UTF-8 without control characters.
            password: up to 1 MiB.
            scopes: the granted scopes: None for "not known", an empty list for "none".
            username: the login name.
            server: the address of the Nextcloud that it is for. It opens for no other one.
            name: how Nextcloud lists it.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written.
        """
        password = hidden(password)
        now = self._access.now()
        row = {
            "user_id": valid.user_id(user_id),
            "created_at": now,
            "updated_at": now,
            "scopes": values.json_list(valid.listed_scopes(scopes)),
            "username": valid.optional_text(username, "username"),
            "server": valid.optional_text(server, "server"),
            "app_password_name": valid.optional_text(name, "name"),
            "refused_at": None,
            "last_used_at": None,
            "encrypted_password": valid.secret(password, "password"),
        }
        # Every release used these two names.
        plain = scopes is None and username is None
        event = "store_app_password" if plain else "store_app_password_with_scopes"
        await self._write(_STORE, row, event, user_id, at=now)

    async def get(self, user_id: str) -> AppPassword | None:
        """Return the user's app password, or None.

        Raises:
            TokenStorageError: ``undecryptable`` or ``unreadable``.
        """
        return await self._get(_GET, {"user_id": valid.user_id(user_id)}, _app_password)

    async def delete(self, user_id: str) -> bool:
        """Delete the user's app password; False if there was none."""
        key = {"user_id": valid.user_id(user_id)}
        return await self._write(_DELETE, key, "delete_app_password", user_id)

    async def refuse(self, app_password: AppPassword) -> bool:
        """Record that Nextcloud has refused this app password.

        Returns:
            False if that is recorded already, or another one was stored since.
        """
        now = self._access.now()
        row = {
            "user": app_password.user_id,
            "user_id": app_password.user_id,
            "stored_at": app_password.updated_at,
            "now": now,
        }
        return await self._write(_REFUSE, row, "refuse_app_password", app_password.user_id, at=now)

    async def touch(self, used: Mapping[str, int]) -> None:
        """Store when app passwords were used last, by user; at most once a minute each.

        The times are whole seconds since 1970. Records nothing.
        """

        def unit(connection: Connection) -> None:
            # In the order of the key, as all writers of several rows.
            for user_id, at in sorted(used.items()):
                connection.run(_TOUCH, {"user": user_id, "now": at})

        if used:
            await self._access.write(unit, again=True)

    async def list_user_ids(self) -> list[str]:
        """Return the users who have an app password, sorted by code points."""
        rows = await self._access.read(lambda connection: connection.all(_USERS))
        return sorted(row.user_id for row in rows)


def _app_password(row: Row, reading: Reading) -> AppPassword:
    of = f"of user {row.user_id!r}"
    return from_row(
        AppPassword,
        row,
        password=reading.secret(row, _PASSWORD, of),
        scopes=values.read_scopes(row.scopes, f"app_passwords.scopes {of}"),
        name=row.app_password_name,
    )
