"""Browser sessions: whose browser holds which session id. The id itself is the credential."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, delete, select

from nextcloud_mcp_server.auth import validation as valid
from nextcloud_mcp_server.auth import values
from nextcloud_mcp_server.auth.audit import record
from nextcloud_mcp_server.auth.statements import in_row, insertion
from nextcloud_mcp_server.schema.tables import browser_sessions

if TYPE_CHECKING:
    from sqlalchemy import Select

    from nextcloud_mcp_server.auth.context import Access
    from nextcloud_mcp_server.backends.base import Connection, Row

_RESOURCE: Final = "browser_session"
_c: Final = browser_sessions.c

_CREATE: Final = insertion(browser_sessions, "session_id", "user_id", "created_at", "expires_at")
_ALL: Final = select(_c.session_id, _c.user_id, _c.created_at, _c.expires_at).where(
    # Text keys made by early releases may be NULL: nobody's row.
    _c.session_id.is_not(None)
)
_GET: Final = _ALL.add_columns(in_row(_c.session_id)).where(
    _c.session_id == bindparam("session_id")
)
_OF_USER: Final = _ALL.where(_c.user_id == bindparam("user_id"))
_EXPIRED: Final = _ALL.where(_c.expires_at <= bindparam("now"))
_DELETE: Final = delete(browser_sessions).where(_c.session_id == bindparam("session_id"))


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """A browser's session; the repr hides its id. Times are whole seconds since 1970."""

    session_id: str = field(repr=False)
    user_id: str
    created_at: int
    expires_at: int
    _clock: Callable[[], float] = field(default=time.time, repr=False, compare=False)

    @property
    def is_expired(self) -> bool:
        """Whether its last second has come, now."""
        return self.expires_at <= self._clock()


class BrowserSessions:
    """The sessions of all browsers."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def create(self, session_id: str, user_id: str, *, expires_at: int) -> None:
        """Begin a session.

        Args:
            session_id: unguessable: whoever holds it is the user.
            user_id: 1 to 255 bytes of UTF-8 without control characters.
            expires_at: whole seconds since 1970.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written; ``conflict`` when
                the id is taken.
        """
        access, now = self._access, self._access.now()
        row = {
            "session_id": valid.text(session_id, "session_id"),
            "user_id": valid.user_id(user_id),
            "created_at": now,
            "expires_at": valid.seconds(expires_at, "expires_at"),
        }

        def unit(connection: Connection) -> None:
            connection.run(_CREATE, row)
            _record(
                connection, access, "create_browser_session", session_id, user_id=user_id, at=now
            )

        await access.write(unit)

    async def get(self, session_id: str) -> BrowserSession | None:
        """The session, expired or not, or None where there is none.

        Raises:
            TokenStorageError: ``corrupt`` where a damaged index leads to another's.
        """
        key = {"session_id": valid.text(session_id, "session_id")}
        row = await self._access.read(lambda connection: connection.first(_GET, key))
        if row is None:
            return None
        values.check_row(session_id, row.own, "browser_sessions", secret=True)
        return _session(row, self._access)

    async def get_user_id(self, session_id: str) -> str | None:
        """Who is logged in with it: None where the session is not there or is over."""
        session = await self.get(session_id)
        return None if session is None or session.is_expired else session.user_id

    async def list_for_user(self, user_id: str) -> list[BrowserSession]:
        """The user's sessions, expired or not, the oldest first."""
        key = {"user_id": valid.user_id(user_id)}
        rows = await self._access.read(lambda connection: connection.all(_OF_USER, key))
        sessions = [_session(row, self._access) for row in rows]
        return sorted(sessions, key=lambda session: (session.created_at, session.session_id))

    async def delete(self, session_id: str) -> bool:
        """End one session; False where there was none."""
        key = {"session_id": valid.text(session_id, "session_id")}
        return await self._delete(_GET, key, "delete_browser_session") > 0

    async def delete_for_user(self, user_id: str) -> int:
        """End every session of the user; how many there were."""
        key = {"user_id": valid.user_id(user_id)}
        return await self._delete(_OF_USER, key, "delete_browser_session")

    async def delete_expired(self) -> int:
        """Delete every session whose time is over; how many there were."""
        key = {"now": self._access.now()}
        return await self._delete(_EXPIRED, key, "delete_expired_browser_session")

    async def _delete(self, found: Select[Any], key: dict[str, Any], event: str) -> int:
        access, now = self._access, self._access.now()

        def unit(connection: Connection) -> int:
            deleted = 0
            for row in connection.all(found, key):
                if connection.run(_DELETE, {"session_id": row.session_id}):
                    deleted += 1
                    _record(connection, access, event, row.session_id, user_id=row.user_id, at=now)
            return deleted

        return await access.write(unit)


def _record(
    connection: Connection, access: Access, event: str, session_id: str, *, user_id: str, at: int
) -> None:
    record(
        connection,
        access,
        event,
        user_id,
        at=at,
        resource_type=_RESOURCE,
        resource_id=values.shown(session_id),
    )


def _session(row: Row, access: Access) -> BrowserSession:
    return BrowserSession(
        session_id=row.session_id,
        user_id=row.user_id,
        created_at=values.read_seconds(
            row.created_at, f"browser_sessions.created_at of user {row.user_id!r}"
        ),
        expires_at=values.read_seconds(
            row.expires_at, f"browser_sessions.expires_at of user {row.user_id!r}"
        ),
        _clock=access.clock,
    )
