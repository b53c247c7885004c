"""MCP clients: which redirect URIs they may have, and where the server knows them from.

Every client is public: an installed program cannot keep a secret.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, cast
from urllib.parse import SplitResult, parse_qsl, urlsplit

from mcp.server.auth.provider import RegistrationError
from mcp.shared.auth import InvalidRedirectUriError, OAuthClientInformationFull
from pydantic import AnyUrl, ValidationError
from starlette.exceptions import HTTPException

from nextcloud_mcp_server.auth.mcp_clients import McpClient
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.oauth.documents import BusyError, Documents, is_document_url
from nextcloud_mcp_server.settings.nextcloud import LOOPBACK

#: Private-use schemes without a dot (RFC 8252 asks for one) of programs that are known.
_PROGRAMS: Final = frozenset(
    {"claude", "cursor", "goose", "raycast", "vscode", "vscode-insiders", "windsurf", "zed"}
)

#: The parameters of an answer. A client that reads the first of two must not read another's.
_ANSWER: Final = frozenset({"code", "state", "iss", "error"})

_MOST_URIS: Final = 20
_LONGEST_URI: Final = 2_000
_LONGEST_NAME: Final = 80

#: Bytes of the metadata of a registration.
_LARGEST: Final = 8 * 1024

#: What is stored of a registration; the rest is neither used nor shown.
_KEPT: Final = ("client_name", "client_uri", "redirect_uris", "grant_types", "response_types")


class PublicClient(OAuthClientInformationFull):
    """A client without a secret. The person decides about scopes, not its registration."""

    def validate_scope(self, requested_scope: str | None) -> list[str] | None:
        """Return the requested scopes; unknown ones are dropped later."""
        return None if requested_scope is None else requested_scope.split()

    def validate_redirect_uri(self, redirect_uri: AnyUrl | None) -> AnyUrl:
        """Return the redirect URI if it is registered; on loopback its port is free (RFC 8252).

        Raises:
            InvalidRedirectUriError: it is not.
        """
        registered = [str(uri) for uri in self.redirect_uris or ()]
        if redirect_uri is None:
            if len(registered) == 1:
                return cast("list[AnyUrl]", self.redirect_uris)[0]
        elif redirect_problem(str(redirect_uri)) is None and (
            str(redirect_uri) in registered
            or any(_same_but_port(str(redirect_uri), one) for one in registered)
        ):
            return redirect_uri
        raise InvalidRedirectUriError("The redirect URI is not registered for this client.")


def redirect_problem(uri: str) -> str | None:
    """Return why a redirect URI is refused; None if it may be registered."""
    parts = _split(uri)
    if parts is None:
        return "it is too long, or has characters that do not belong in a URL"
    if "#" in uri or parts.username is not None:
        return "it has a fragment or a user"
    if _ANSWER & {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}:
        return "its query has a parameter that the answer adds"
    return _scheme_problem(parts)


def _scheme_problem(parts: SplitResult) -> str | None:
    """Return why a scheme is refused, or a host with it; None if both are allowed."""
    if parts.scheme == "https":
        return None if parts.hostname else "it has no host"
    if parts.scheme == "http":
        return None if parts.hostname in LOOPBACK else "http is for 127.0.0.1 and localhost alone"
    if "." in parts.scheme or parts.scheme in _PROGRAMS:
        return None
    return "its scheme is neither https nor that of a known program"


def _split(uri: str) -> SplitResult | None:
    """Return the parts of a URL; None if it is too long or is none."""
    if len(uri) > _LONGEST_URI or not uri.isascii() or re.search(r"[\s\x00-\x1f\x7f\\\"'<>]", uri):
        return None
    with suppress(ValueError):
        return urlsplit(uri)
    return None


def _same_but_port(uri: str, registered: str) -> bool:
    mine, other = urlsplit(uri), urlsplit(registered)
    if not is_loopback(uri):
        return False

    def without_port(parts: SplitResult) -> tuple[str | None, ...]:
        return parts.scheme, parts.hostname, parts.path or "/", parts.query

    return without_port(mine) == without_port(other)


def is_loopback(uri: str) -> bool:
    """Return whether a redirect URI leads to a program that listens on the person's computer."""
    parts = urlsplit(uri)
    return parts.scheme == "http" and parts.hostname in LOOPBACK


def shown_target(uri: str) -> str:
    """Return where a redirect URI leads, for a person."""
    parts = urlsplit(uri)
    if parts.scheme == "http":
        return "a program on this computer"
    if parts.scheme == "https":
        return parts.netloc
    return f"the program on this computer that opens {parts.scheme}: links"


def shown_name(name: object) -> str:
    """Return a client's name for a person: short, and without characters that are not shown."""
    text = name if isinstance(name, str) else ""
    plain = "".join(c for c in text if unicodedata.category(c)[0] != "C")
    return " ".join(plain.split())[:_LONGEST_NAME] or "A client without a name"


def checked(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is stored of a client's metadata.

    Raises:
        RegistrationError: a redirect URI is refused.
    """
    uris = [str(uri) for uri in cast("Iterable[object]", metadata.get("redirect_uris") or ())]
    if not 1 <= len(uris) <= _MOST_URIS:
        raise RegistrationError("invalid_redirect_uri", f"1 to {_MOST_URIS} are needed")
    for uri in uris:
        if (problem := redirect_problem(uri)) is not None:
            raise RegistrationError("invalid_redirect_uri", f"A redirect URI is refused: {problem}")
    kept = {name: metadata[name] for name in _KEPT if metadata.get(name) is not None}
    return {**kept, "redirect_uris": uris, "client_name": shown_name(metadata.get("client_name"))}


class Clients:
    """Finds and registers clients."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def get(self, storage: RefreshTokenStorage, client_id: str) -> PublicClient | None:
        """Return the client with this id as it is stored, or None. Nothing is fetched."""
        stored = await _stored(storage, client_id)
        return None if stored is None else _client(client_id, stored.metadata)

    async def find(self, storage: RefreshTokenStorage, client_id: str) -> PublicClient | None:
        """Return the client with this id, or None. Its id may be the URL of its document.

        The document is fetched if there is none, or if it was fetched an hour ago.

        Raises:
            BusyError: too many documents are being fetched.
        """
        stored = await _stored(storage, client_id)
        known = None if stored is None else _client(client_id, stored.metadata)
        now = self._documents.clock()
        fresh = stored is not None and (stored.expires_at or 0) > now
        if fresh or not is_document_url(client_id):
            return known
        try:
            document = await self._documents.fetch(client_id)
        except BusyError:
            if known is None:
                raise
            return known
        # A host that is down must not end what was granted.
        return known if document is None else await self._store(storage, client_id, document, now)

    async def _store(
        self, storage: RefreshTokenStorage, url: str, document: dict[str, Any], now: float
    ) -> PublicClient | None:
        """Store a document, and return its client; None if it is refused."""
        try:
            metadata = checked(document)
            client = _client(url, metadata)
        except (RegistrationError, ValidationError):
            return None
        expires_at = int(now) + self._documents.kept
        if not await storage.mcp_clients.store_document(url, metadata, expires_at=expires_at):
            raise BusyError
        return client

    async def register(
        self, storage: RefreshTokenStorage, client: OAuthClientInformationFull
    ) -> None:
        """Store a client, and make it a public one, which its answer then says.

        Raises:
            RegistrationError: its metadata is refused.
            HTTPException: 503 if too many clients have registered.
        """
        sent = client.model_dump_json(exclude_none=True)
        if len(sent.encode()) > _LARGEST:
            raise RegistrationError("invalid_client_metadata", "The metadata is larger than 8 KB")
        metadata = checked(json.loads(sent))
        client.client_name = metadata["client_name"]
        client.client_secret = client.client_secret_expires_at = None
        client.token_endpoint_auth_method = "none"  # noqa: S105 - no method
        if not await storage.mcp_clients.register(client.client_id, metadata):
            raise HTTPException(503, "Too many clients have registered.", {"Retry-After": "600"})


async def _stored(storage: RefreshTokenStorage, client_id: str) -> McpClient | None:
    try:
        return await storage.mcp_clients.get(client_id)
    except TokenStorageError as error:
        if error.code != "bad-input":
            raise
        return None


def _client(client_id: str, metadata: Mapping[str, Any]) -> PublicClient:
    kept = {name: metadata[name] for name in _KEPT if name in metadata}
    return PublicClient.model_validate(
        {**kept, "client_id": client_id, "token_endpoint_auth_method": "none"}
    )
