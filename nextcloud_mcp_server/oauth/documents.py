"""Client ID Metadata Documents: fetching the document that a client's id is the URL of.

The URL comes from anybody, so the request must not reach what only this machine can reach. The
address is resolved once, must be public, and is the one that is connected to; redirects are not
followed; size and time are limited.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2

logger = logging.getLogger(__name__)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Resolves a host to its addresses.
Resolve = Callable[[str], Awaitable[list[Address]]]

_LONGEST_URL: Final = 1_000

#: Bytes of a document, and seconds for all of it.
_LARGEST: Final = 10 * 1024
_DEADLINE: Final = 5.0

#: Seconds for which a document is kept, and for which a failure is remembered.
_KEPT: Final = 3_600
_FAILED: Final = 60.0

#: Requests at once, lookups of names at once, and failures that are remembered.
_AT_ONCE: Final = 16
_LOOKUPS: Final = 16
_REMEMBERED: Final = 1_000

_OK: Final = 200

#: What the standard library of some versions takes for addresses of the internet.
_RESERVED: Final = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "fec0::/10")))


def is_document_url(client_id: str) -> bool:
    """Return whether a client's id can be the URL of its document."""
    if not client_id.startswith("https://") or len(client_id) > _LONGEST_URL:
        return False
    if not client_id.isascii() or re.search(r"[\s\x00-\x1f\x7f\\#]", client_id):
        return False
    with suppress(ValueError):
        parts = urlsplit(client_id)
        dots = {".", "..", "%2e", "%2e%2e"} & set(parts.path.lower().split("/"))
        host = parts.hostname or ""
        return (
            parts.port is None
            and "@" not in parts.netloc
            and "." in host
            and parts.path not in {"", "/"}
            and not dots
        )
    return False


def is_public(address: Address) -> bool:
    """Return whether an address is one of the internet, also inside of an IPv6 address."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if address.teredo is not None:
            return False
        if inner is not None:
            return is_public(inner)
    if any(address in network for network in _RESERVED):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


class BusyError(Exception):
    """As many documents or names as are allowed are being fetched for others."""


#: A place for each lookup, until its thread has ended: nothing can end it earlier.
_places: Final = threading.BoundedSemaphore(_LOOKUPS)


async def resolve(host: str) -> list[Address]:
    """Return the addresses of a host.

    Each lookup has a thread of its own. Those of the event loop would all wait for the name
    servers of any client, and with them each lookup of Nextcloud's name.

    Raises:
        OSError: it has none.
        BusyError: too many lookups are under way.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Any]] = loop.create_future()
    if not _places.acquire(blocking=False):
        raise BusyError
    try:
        # A daemon: the process need not wait for it at its end.
        thread = threading.Thread(
            target=_look_up, args=(host, loop, found), name="name lookup", daemon=True
        )
        thread.start()
    except RuntimeError:
        _places.release()
        raise BusyError from None
    return [ipaddress.ip_address(address[0]) for *_, address in await found]


def _look_up(host: str, loop: asyncio.AbstractEventLoop, found: asyncio.Future[list[Any]]) -> None:
    try:
        result: list[Any] | Exception = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    # UnicodeError: a part of the name is too long.
    except (OSError, UnicodeError) as error:
        result = error
    finally:
        _places.release()
    # RuntimeError: the loop has ended meanwhile.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_settle, found, result)


def _settle(found: asyncio.Future[list[Any]], result: list[Any] | Exception) -> None:
    if found.cancelled():
        return
    if isinstance(result, Exception):
        found.set_exception(result)
    else:
        found.set_result(result)


class Documents:
    """Fetches documents.

    Args:
        resolve: resolves a host.
        permitted: whether an address may be connected to.
        port: of the servers.
        verify: the certificates that are trusted; None for those of the system.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        *,
        resolve: Resolve = resolve,
        permitted: Callable[[Address], bool] = is_public,
        port: int = 443,
        verify: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._resolve = resolve
        self._permitted = permitted
        self._port = port
        self._verify = verify
        self.clock = clock
        self.kept = _KEPT
        self._running = 0
        self._failures: dict[str, float] = {}

    async def fetch(self, url: str) -> dict[str, Any] | None:
        """Return the document of a client that is public; None if there is no valid one.

        A failure is remembered for a minute.

        Raises:
            BusyError: too many are being fetched. That is not remembered.
        """
        now = time.monotonic()
        if self._failures.get(url, now) > now:
            return None
        # Nobody waits: others may hold their places for as long as they can.
        if self._running >= _AT_ONCE:
            raise BusyError
        self._running += 1
        try:
            async with asyncio.timeout(_DEADLINE):
                return await self._fetched(url)
        # RecursionError: brackets in brackets.
        except (httpx2.HTTPError, OSError, RecursionError, ValueError) as error:
            reason = str(error) if isinstance(error, _RefusedError) else type(error).__name__
            # Not the URL's path: anybody chooses it.
            logger.warning("No client document from %s: %s", urlsplit(url).hostname, reason)
        finally:
            self._running -= 1
        if len(self._failures) >= _REMEMBERED:
            self._failures.clear()
        self._failures[url] = now + _FAILED
        return None

    async def _fetched(self, url: str) -> dict[str, Any]:
        parts = urlsplit(url)
        host = parts.hostname or ""
        addresses = await self._resolve(host)
        # All of them: a name that also has a private address is not that of a client.
        if not addresses or not all(map(self._permitted, addresses)):
            raise _RefusedError("its address is not public")
        pinned = f"[{addresses[0]}]" if addresses[0].version == 6 else str(addresses[0])  # noqa: PLR2004
        target = f"https://{pinned}:{self._port}{parts.path}" + (
            f"?{parts.query}" if parts.query else ""
        )
        async with (
            httpx2.AsyncClient(
                verify=self._verify or ssl.create_default_context(),
                follow_redirects=False,
                trust_env=False,
                timeout=_DEADLINE,
            ) as http,
            http.stream(
                "GET",
                target,
                headers={"Host": host, "Accept": "application/json", "Accept-Encoding": "identity"},
                extensions={"sni_hostname": host},
            ) as response,
        ):
            if response.status_code != _OK:
                raise _RefusedError(f"status {response.status_code}")
            content = bytearray()
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > _LARGEST:
                    raise _RefusedError("larger than 10 KB")
        return _document(url, bytes(content))


class _RefusedError(ValueError):
    """A document that is not used, with the reason."""


def _document(url: str, content: bytes) -> dict[str, Any]:
    document = json.loads(content)
    if not isinstance(document, dict) or document.get("client_id") != url:
        raise _RefusedError("its client_id is not its URL")
    method = document.get("token_endpoint_auth_method", "none")
    if method != "none" or "client_secret" in document:
        raise _RefusedError("not a public client")
    uris = document.get("redirect_uris")
    if not isinstance(uris, list) or not all(isinstance(uri, str) for uri in uris):
        raise _RefusedError("no redirect_uris")
    return document
