"""The server's own registration at the identity provider (RFC 7591): one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import bindparam, delete, select

from nextcloud_mcp_server.auth import validation as valid
from nextcloud_mcp_server.auth import values
from nextcloud_mcp_server.auth.concern import Clock, Concern, from_row
from nextcloud_mcp_server.auth.context import wall_clock
from nextcloud_mcp_server.auth.secrets import Reading
from nextcloud_mcp_server.auth.statements import upsert
from nextcloud_mcp_server.backends.base import Row
from nextcloud_mcp_server.schema.secrets import secrets_of
from nextcloud_mcp_server.schema.tables import oauth_clients
from nextcloud_mcp_server.secret import hidden

_KEY: Final = {"id": 1}
_c: Final = oauth_clients.c
_SECRETS: Final = secrets_of("oauth_clients")

_STORE: Final = upsert(oauth_clients)
_GET: Final = select(*_c).where(_c.id == bindparam("id"))
_DELETE: Final = delete(oauth_clients).where(_c.id == bindparam("id"))


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """The registration; the repr hides its secrets. Times are whole seconds since 1970.

    ``client_secret_expires_at`` is 0 for a secret that does not expire (RFC 7591, 3.2.1).
    """

    client_id: str
    client_secret: str = field(repr=False)
    client_id_issued_at: int
    client_secret_expires_at: int
    redirect_uris: tuple[str, ...]
    registration_access_token: str | None = field(repr=False)
    registration_client_uri: str | None
    created_at: int
    updated_at: int
    _clock: Clock = field(default=wall_clock, repr=False, compare=False)

    @property
    def is_expired(self) -> bool:
        """Whether the secret is expired now."""
        return 0 < self.client_secret_expires_at <= self._clock()


class OAuthClients(Concern):
    """The registration, with encrypted client secret and registration access token."""

    _table = "oauth_clients"
    _auth_method = "oauth"

    async def store(
        self,
        client_id: str,
        client_secret: str,
        *,
        redirect_uris: Sequence[str],
        client_id_issued_at: int | None = None,
        client_secret_expires_at: int = 0,
        registration_access_token: str | None = None,
        registration_client_uri: str | None = None,
    ) -> None:
        """Store the registration. Storing again keeps ``created_at`` only.

        Args:
            client_id: the id that the provider issued.
            client_secret: up to 1 MiB.
            redirect_uris: the registered URIs.
            client_id_issued_at: whole seconds since 1970; None for now.
            client_secret_expires_at: whole seconds since 1970; 0 for never.
            registration_access_token: for changing the registration (RFC 7592).
            registration_client_uri: the URI for changing it.

        Raises:
            TokenStorageError: ``bad-input`` before anything is written.
        """
        client_secret = hidden(client_secret)
        token = registration_access_token = hidden(registration_access_token)
        now = self._access.now()
        issued = valid.optional_seconds(client_id_issued_at, "client_id_issued_at")
        row = {
            **_KEY,
            "client_id": valid.text(client_id, "client_id"),
            "client_id_issued_at": now if issued is None else issued,
            "client_secret_expires_at": valid.seconds(
                client_secret_expires_at, "client_secret_expires_at"
            ),
            "redirect_uris": values.json_list(valid.texts(redirect_uris, "redirect_uris")),
            "registration_client_uri": valid.optional_text(
                registration_client_uri, "registration_client_uri"
            ),
            "created_at": now,
            "updated_at": now,
            "encrypted_client_secret": valid.secret(client_secret, "client_secret"),
            "encrypted_registration_access_token": None
            if token is None
            else valid.secret(token, "registration_access_token"),
        }
        await self._write(_STORE, row, "store_oauth_client", at=now)

    async def get(self) -> OAuthClient | None:
        """Return the registration, expired or not, or None.

        Raises:
            TokenStorageError: ``undecryptable`` or ``unreadable``.
        """
        return await self._get(_GET, _KEY, _client)

    async def delete(self) -> bool:
        """Delete the registration; False if there was none."""
        return await self._write(_DELETE, _KEY, "delete_oauth_client")


def _client(row: Row, reading: Reading) -> OAuthClient:
    of = "of row 1"
    token = row.encrypted_registration_access_token
    return from_row(
        OAuthClient,
        row,
        client_secret=reading.secret(row, _SECRETS["encrypted_client_secret"], of),
        client_secret_expires_at=values.read_seconds(
            row.client_secret_expires_at, f"oauth_clients.client_secret_expires_at {of}"
        ),
        redirect_uris=values.read_json_list(row.redirect_uris, f"oauth_clients.redirect_uris {of}")
        or (),
        registration_access_token=None
        if token is None
        else reading.secret(row, _SECRETS["encrypted_registration_access_token"], of),
        _clock=reading.clock,
    )
