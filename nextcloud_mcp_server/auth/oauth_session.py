"""One OAuth session: an authorization under way, as it is read from its row."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nextcloud_mcp_server.auth import stored

if TYPE_CHECKING:
    from nextcloud_mcp_server.backends.base import Row


@dataclass(frozen=True, slots=True)
class OAuthSession:
    """An authorization under way; the repr hides what would let somebody else finish it.

    Times are whole seconds since 1970. ``is_provisioning`` tells a flow that grants the
    server offline access from one that logs a client in.
    """

    session_id: str = field(repr=False)
    client_id: str | None
    client_redirect_uri: str
    state: str | None = field(repr=False)
    code_challenge: str | None
    code_challenge_method: str | None
    mcp_authorization_code: str | None = field(repr=False)
    idp_access_token: str | None = field(repr=False)
    idp_refresh_token: str | None = field(repr=False)
    user_id: str | None
    created_at: int
    expires_at: int
    flow_type: str
    requested_scopes: tuple[str, ...] | None
    granted_scopes: tuple[str, ...] | None
    is_provisioning: bool
    nonce: str | None = field(repr=False)
    _clock: Callable[[], float] = field(default=time.time, repr=False, compare=False)

    @property
    def is_expired(self) -> bool:
        """Whether its last second has come, now."""
        return self.expires_at <= self._clock()


def read(row: Row, clock: Callable[[], float]) -> OAuthSession:
    """The session of a row; ``clock`` tells it whether it is expired.

    Raises:
        TokenStorageError: ``unreadable`` where a time in it is none.
    """
    of = f"of session {stored.shown(row.session_id)!r}"
    return OAuthSession(
        session_id=row.session_id,
        client_id=row.client_id,
        client_redirect_uri=row.client_redirect_uri,
        state=row.state,
        code_challenge=row.code_challenge,
        code_challenge_method=row.code_challenge_method,
        mcp_authorization_code=row.mcp_authorization_code,
        idp_access_token=row.idp_access_token,
        idp_refresh_token=row.idp_refresh_token,
        user_id=row.user_id,
        created_at=stored.read_seconds(row.created_at, f"oauth_sessions.created_at {of}"),
        expires_at=stored.read_seconds(row.expires_at, f"oauth_sessions.expires_at {of}"),
        flow_type=row.flow_type or "hybrid",
        requested_scopes=stored.read_spaced(row.requested_scopes),
        granted_scopes=stored.read_spaced(row.granted_scopes),
        is_provisioning=bool(row.is_provisioning),
        nonce=row.nonce,
        _clock=clock,
    )
