"""Browser sessions: the user of each session id.

The id itself is the credential, so only its hash is stored. A session of a list has the hash in
place of the id, which finds the session again in this process, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import bindparam, delete

from nextcloud_mcp_server.auth import validation as valid
from nextcloud_mcp_server.auth import values
from nextcloud_mcp_server.auth.concern import Clock, Concern, Expiring, from_row
from nextcloud_mcp_server.auth.context import wall_clock
from nextcloud_mcp_server.auth.secrets import Reading
from nextcloud_mcp_server.auth.statements import expired, in_row, insertion, rows_with, stored_as
from nextcloud_mcp_server.backends.base import Connection, Row
from nextcloud_mcp_server.crypto.binding import hashed, stored_id
from nextcloud_mcp_server.schema.tables import browser_sessions
from nextcloud_mcp_server.secret import hidden

_c: Final = browser_sessions.c

_CREATE: Final = insertion(browser_sessions)
_ALL: Final = rows_with(_c.session_id, *_c)
_GET: Final = _ALL.add_columns(in_row(_c.session_id)).where(stored_as(_c.session_id))
_OF_USER: Final = _ALL.where(_c.user_id == bindparam("user_id"))
_EXPIRED: Final = expired(_c.session_id, _c.expires_at, _c.session_id, _c.user_id)
_DELETE: Final = delete(browser_sessions).where(_c.session_id == bindparam("session_id"))


@dataclass(frozen=True, slots=True)
class BrowserSession(Expiring):
    """A browser's session; the repr hides its id. Times are whole seconds since 1970."""

    session_id: str = field(repr=False)
    user_id: str
    created_at: int
    expires_at: int
    _clock: Clock = field(default=wall_clock, repr=False, compare=False)


class BrowserSessions(Concern):
    """The sessions of all browsers."""

    _table = "browser_sessions"
    _key = "session_id"
    _resource_type = "browser_session"

    async def create(self, session_id: str, user_id: str, *, expires_at: int) -> None:
        """Store a new session.

        Args:
            session_id: unguessable, at least 22 characters (128 bits in base64): anyone who
                knows it is logged in as the user.
            user_id: 1 to 255 bytes of UTF-8 without control characters.
            expires_at: whole seconds since 1970.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written; ``conflict`` if
                the id exists.
        """
        session_id = hidden(session_id)
        now = self._access.now()
        row = {
            "session_id": hashed(valid.credential(session_id, "session_id")),
            "user_id": valid.user_id(user_id),
            "created_at": now,
            "expires_at": valid.seconds(expires_at, "expires_at"),
        }
        await self._write(_CREATE, row, "create_browser_session", user_id, at=now)

    async def get(self, session_id: str) -> BrowserSession | None:
        """Return the session, expired or not, or None.

        Raises:
            TokenStorageError: ``corrupt`` if a damaged index leads to another session.
        """
        session_id = hidden(session_id)
        return await self._get(
            _GET,
            valid.stored_forms(session_id, "session_id"),
            lambda row, reading: _session(row, reading, session_id),
        )

    async def get_user_id(self, session_id: str) -> str | None:
        """Return the user of the session; None if it does not exist or is expired."""
        session_id = hidden(session_id)
        session = await self.get(session_id)
        return None if session is None or session.is_expired else session.user_id

    async def list_for_user(self, user_id: str) -> list[BrowserSession]:
        """Return the user's sessions, expired or not, oldest first."""
        key = {"user_id": valid.user_id(user_id)}
        access = self._access

        def unit(connection: Connection) -> list[BrowserSession]:
            reading = Reading(access, connection, committed=True)
            rows = connection.all(_OF_USER, key)
            return [_session(row, reading) for row in rows if reading.accepts_id(row.session_id)]

        sessions = await access.read(unit)
        return sorted(sessions, key=lambda session: (session.created_at, session.session_id))

    async def delete(self, session_id: str) -> bool:
        """Delete one session; False if there was none."""
        session_id = hidden(session_id)
        key = valid.stored_forms(session_id, "session_id")
        return await self._delete_all(_GET, _DELETE, "delete_browser_session", key) > 0

    async def delete_for_user(self, user_id: str) -> int:
        """Delete every session of the user; return how many there were."""
        key = {"user_id": valid.user_id(user_id)}
        return await self._delete_all(_OF_USER, _DELETE, "delete_browser_session", key)

    async def delete_expired(self) -> int:
        """Delete every expired session; return how many there were."""
        return await self._delete_all(_EXPIRED, _DELETE, "delete_expired_browser_session")


def _session(row: Row, reading: Reading, session_id: str | None = None) -> BrowserSession:
    of = f"of user {row.user_id!r}"
    return from_row(
        BrowserSession,
        row,
        session_id=session_id or stored_id(row.session_id),
        created_at=values.read_seconds(row.created_at, f"browser_sessions.created_at {of}"),
        expires_at=values.read_seconds(row.expires_at, f"browser_sessions.expires_at {of}"),
        _clock=reading.clock,
    )
