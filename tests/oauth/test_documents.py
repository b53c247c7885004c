"""Fetching the documents of clients, from a real server with TLS on loopback."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from nextcloud_mcp_server.auth import mcp_clients
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.oauth import documents as module
from nextcloud_mcp_server.oauth.clients import Clients
from nextcloud_mcp_server.oauth.documents import (
    _AT_ONCE,
    _LOOKUPS,
    Address,
    BusyError,
    Documents,
    is_document_url,
    is_public,
    resolve,
)
from tests.oauth.person import Served
from tests.support.contents import KEY
from tests.support.present import present

if TYPE_CHECKING:
    from starlette.requests import Request

HOST = "client.example"
URL = f"https://{HOST}/oauth/client.json"
DOCUMENT: dict[str, object] = {
    "client_id": URL,
    "client_name": "Described client",
    "redirect_uris": ["http://127.0.0.1/callback"],
    "token_endpoint_auth_method": "none",
}


@dataclass
class Host:
    """A web server with the name of a client, and what it answers."""

    port: int
    trusted: ssl.SSLContext
    body: bytes = field(default=json.dumps(DOCUMENT).encode())
    redirect: str = ""
    requests: list[str] = field(default_factory=list)

    def documents(self, address: str = "127.0.0.1", *, guarded: bool = False) -> Documents:
        """Return documents for which the name leads to loopback; unguarded, that is permitted."""

        async def resolve(_: str) -> list[Address]:
            return [ipaddress.ip_address(address)]

        return Documents(
            resolve=resolve,
            permitted=is_public if guarded else lambda _: True,
            port=self.port,
            verify=self.trusted,
        )


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate of the host, and return the files of it and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A running web server."""
    cert, key = certificate(tmp_path)

    async def answered(request: Request) -> Response:
        found.requests.append(request.headers["Host"])
        if found.redirect:
            return RedirectResponse(found.redirect)
        return Response(found.body, media_type="application/json")

    app = Starlette(routes=[Route("/{path:path}", answered)])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        found = Host(listening.getsockname()[1], ssl.create_default_context(cafile=str(cert)))
        config = uvicorn.Config(
            app, log_config=None, lifespan="off", ws="none", ssl_certfile=cert, ssl_keyfile=key
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        yield found
        server.should_exit = True
        thread.join(10)


@pytest.mark.parametrize(
    "text",
    [
        "http://client.example/x",
        "https://client.example",
        "https://client.example/",
        "https://client.example:8443/x",
        "https://user@client.example/x",
        "https://client.example/x#y",
        "https://client.example/../x",
        "https://client.example/%2e%2e/x",
        "https://localhost/x",
        "https://client.example/" + "x" * 1000,
        "https://client.exämple/x",
        "https://client.example\\@10.0.0.1/x",
        "client-1",
    ],
)
def test_only_some_urls_are_those_of_a_document(text: str) -> None:
    """A document is at an https URL with a path, without port, user, fragment and dots."""
    assert not is_document_url(text)
    assert is_document_url(URL)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",  # noqa: S104 - an address to refuse
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
        "64:ff9b:1::7f00:1",
        "::7f00:1",
        "::ffff:0:127.0.0.1",
        "fec0::1",
        "192.0.0.8",
        "198.18.0.1",
    ],
)
def test_private_addresses_are_refused(address: str) -> None:
    """Also those that are inside of an IPv6 address."""
    assert not is_public(ipaddress.ip_address(address))


def test_public_addresses_are_permitted() -> None:
    """The addresses of the internet can be connected to."""
    for address in ("93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"):
        assert is_public(ipaddress.ip_address(address))


async def test_a_document_is_fetched_with_the_name_of_its_host(host: Host) -> None:
    """The connection goes to the resolved address, and certificate and Host are of the name."""
    assert await host.documents().fetch(URL) == DOCUMENT
    assert host.requests == [HOST]


async def test_a_private_address_is_never_connected_to(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """The guard refuses before there is a connection, and the failure is remembered."""
    documents = host.documents(guarded=True)
    assert await documents.fetch(URL) is None
    assert await documents.fetch(URL) is None
    assert host.requests == []
    assert caplog.text.count("its address is not public") == 1


async def test_a_redirect_is_not_followed(host: Host) -> None:
    """A document that has moved is none."""
    host.redirect = f"https://{HOST}/other"
    assert await host.documents().fetch(URL) is None
    assert len(host.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"x",
        b"[]",
        json.dumps({**DOCUMENT, "client_id": "https://other.example/x"}).encode(),
        json.dumps({**DOCUMENT, "redirect_uris": "x"}).encode(),
        json.dumps({**DOCUMENT, "token_endpoint_auth_method": "private_key_jwt"}).encode(),
        json.dumps({**DOCUMENT, "client_secret": "x"}).encode(),
        json.dumps({**DOCUMENT, "padding": "x" * 10_240}).encode(),
        b"[" * 10_000,
    ],
)
async def test_a_bad_document_is_none(host: Host, body: bytes) -> None:
    """No JSON, another id, a client with a secret, more than 10 KB, or nested too deeply."""
    host.body = body
    assert await host.documents().fetch(URL) is None


async def test_a_host_that_drips_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then does not hold a place for longer than the deadline."""
    monkeypatch.setattr(module, "_DEADLINE", 0.4)
    cert, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n")
        with suppress(OSError):
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.1)

    async with await asyncio.start_server(drip, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        host = Host(port, ssl.create_default_context(cafile=str(cert)))
        async with asyncio.timeout(5):
            assert await host.documents().fetch(URL) is None


async def test_another_certificate_is_refused(host: Host) -> None:
    """A host that cannot prove its name gives no document."""
    documents = host.documents()
    assert await documents.fetch("https://other.example/x") is None
    assert host.requests == []


async def test_a_document_is_kept_for_an_hour(host: Host, token_db: Path) -> None:
    """It is fetched once, again after an hour, and kept if its host is away then."""
    documents = host.documents()
    times = iter([0.0, 10.0, 4_000.0, 8_000.0])
    documents.clock = lambda: next(times)
    clients = Clients(documents)
    async with RefreshTokenStorage(token_db, encryption_key=KEY) as storage:
        for count in (1, 1, 2):
            client = present(await clients.find(storage, URL))
            assert client.client_name == "Described client"
            assert len(host.requests) == count
        host.body = b"gone"
        assert await clients.find(storage, URL) is not None
        assert len(host.requests) == 3


@pytest.mark.parametrize("uri", ["javascript:alert(1)", "https://[x", "https://u@x.example/", 1])
async def test_a_document_with_a_dangerous_address_is_none(
    host: Host, token_db: Path, uri: object
) -> None:
    """Its redirect URIs are checked like those of a registration; a broken one is no error."""
    host.body = json.dumps({**DOCUMENT, "redirect_uris": [uri]}).encode()
    async with RefreshTokenStorage(token_db, encryption_key=KEY) as storage:
        assert await Clients(host.documents()).find(storage, URL) is None


async def test_a_client_that_cannot_be_stored_waits(
    host: Host, token_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person is told to try again, not sent to a page of a client that is not there."""
    monkeypatch.setattr(mcp_clients, "MOST_UNUSED", 0)
    async with RefreshTokenStorage(token_db, encryption_key=KEY) as storage:
        with pytest.raises(BusyError):
            await Clients(host.documents()).find(storage, URL)


async def test_a_name_that_moves_to_a_private_address_is_not_followed(host: Host) -> None:
    """The name is resolved once: what is connected to is what was checked (DNS rebinding)."""
    asked: list[str] = []
    addresses = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("127.9.9.9")]

    async def rebinding(name: str) -> list[Address]:
        asked.append(name)
        return [addresses[min(len(asked), 2) - 1]]

    documents = host.documents()
    documents._resolve = rebinding
    assert await documents.fetch(URL) == DOCUMENT
    assert asked == [HOST]


async def test_one_private_address_of_several_refuses_all(host: Host) -> None:
    """A name with a public and a private address is not that of a client."""

    async def both(_: str) -> list[Address]:
        return [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("10.0.0.1")]

    documents = host.documents()
    documents._resolve = both
    documents._permitted = lambda address: address == ipaddress.ip_address("127.0.0.1")
    assert await documents.fetch(URL) is None
    assert host.requests == []


async def test_a_known_client_is_found_without_its_host(host: Host, token_db: Path) -> None:
    """Tokens and pages use the stored document, also a day later and after a restart."""
    documents = host.documents()
    async with RefreshTokenStorage(token_db, encryption_key=KEY) as storage:
        assert await Clients(documents).get(storage, URL) is None
        assert host.requests == []
        assert await Clients(documents).find(storage, URL) is not None
    later = host.documents()
    later.clock = lambda: time.time() + 86_400
    async with RefreshTokenStorage(token_db, encryption_key=KEY) as storage:
        assert present(await Clients(later).get(storage, URL)).client_name == "Described client"
    assert host.requests == [HOST]


async def test_more_documents_than_are_fetched_at_once_are_refused_at_once(
    host: Host, token_db: Path
) -> None:
    """It is not remembered as a failure, and a known client goes on with its stored document."""
    documents = host.documents()
    clients = Clients(documents)
    async with RefreshTokenStorage(token_db, encryption_key=KEY) as storage:
        other = Clients(host.documents())
        assert await other.find(storage, URL) is not None
        documents.clock = lambda: time.time() + 86_400
        free, plain = asyncio.Event(), documents._resolve

        async def waiting(name: str) -> list[Address]:
            await free.wait()
            return await plain(name)

        documents._resolve = waiting
        urls = [f"https://{HOST}/{number}" for number in range(_AT_ONCE)]
        fetches = [asyncio.create_task(documents.fetch(url)) for url in urls]
        await asyncio.sleep(0)
        begun = time.monotonic()
        with pytest.raises(BusyError):
            await clients.find(storage, f"https://{HOST}/honest")
        assert await clients.find(storage, URL) is not None
        assert time.monotonic() - begun < 1
        free.set()
        await asyncio.gather(*fetches)
        host.body = json.dumps({**DOCUMENT, "client_id": f"https://{HOST}/honest"}).encode()
        assert await clients.find(storage, f"https://{HOST}/honest") is not None


async def test_lookups_of_names_have_their_own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name servers that never answer hold up neither other lookups of this process nor its end."""
    free = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: free.wait(30) and [])
    lookups = [asyncio.create_task(resolve(f"x{number}.test")) for number in range(_LOOKUPS)]
    await asyncio.sleep(0)
    with pytest.raises(BusyError):
        await resolve("honest.test")
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "name lookup")
    begun = time.monotonic()
    assert await asyncio.to_thread(lambda: 1) == 1
    assert time.monotonic() - begun < 5
    # Cancelled ones still have their thread.
    lookups[0].cancel()
    await asyncio.wait(lookups[:1])
    with pytest.raises(BusyError):
        await resolve("honest.test")
    free.set()
    assert await asyncio.gather(*lookups[1:]) == [[]] * (_LOOKUPS - 1)
    for thread in threading.enumerate():
        if thread.name == "name lookup":
            thread.join(10)
    assert await resolve("honest.test") == []


async def test_a_name_that_does_not_exist_is_an_error() -> None:
    """The error of the lookup reaches the caller."""
    with pytest.raises(OSError):  # noqa: PT011 - of any number
        await resolve("name.invalid")


async def test_a_name_with_a_long_part_is_an_error() -> None:
    """The lookup ends, too, if the name cannot be encoded."""
    with pytest.raises((OSError, UnicodeError)):
        async with asyncio.timeout(10):
            await resolve(f"{'a' * 64}.test")


def test_a_token_request_fetches_nothing(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither /token nor /revoke looks up the name in a client's id; /authorize says it is busy."""
    asked: list[str] = []

    async def busy(_: Documents, url: str) -> None:
        asked.append(url)
        raise BusyError

    monkeypatch.setattr(Documents, "fetch", busy)
    form = {"client_id": URL, "grant_type": "refresh_token", "refresh_token": "a" * 43}
    assert httpx2.post(f"{served.url}/token", data=form).status_code == 401
    revoke = {"client_id": URL, "token": "a" * 43}
    assert httpx2.post(f"{served.url}/revoke", data=revoke).status_code == 200
    assert asked == []
    page = httpx2.get(f"{served.url}/authorize", params={"client_id": URL})
    assert (page.status_code, asked) == (503, [URL])
    assert "Try again in a minute" in page.text
