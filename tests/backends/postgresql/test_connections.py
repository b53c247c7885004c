"""Connections that are encrypted, refused, or to a server that is not up yet."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.backends.postgresql import connect as module
from nextcloud_mcp_server.migrate.inspect import inspect
from nextcloud_mcp_server.migrate.startup import prepare
from tests.support.child import ROOT, Child, run_program
from tests.support.contents import KEY
from tests.support.errors import refuses
from tests.support.pgbouncer import pooled
from tests.support.postgresql import QUICK, Server, free_port, running

_PASSWORD = "Zu-geheim-fuer-das-Protokoll"


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _builder(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )


def _authority(name: str, folder: Path) -> ec.EllipticCurvePrivateKey:
    """Make an authority for certificates; write its own into ``folder``."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = _builder(name, name, key).add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True
    )
    certificate = made.sign(key, hashes.SHA256())
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return key


def _certify(folder: Path, authority: ec.EllipticCurvePrivateKey) -> None:
    """Write ``server.key`` and ``server.crt`` for a server on this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    made = _builder("localhost", "ours", key).add_extension(names, critical=False)
    certificate = made.sign(authority, hashes.SHA256())
    (folder / "server.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    path = folder / "server.key"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with a port, a password for one role, and few connections."""
    settings = {
        "port": free_port(),
        "max_connections": "12",
        "superuser_reserved_connections": "0",
    }
    with running(settings={**QUICK, **settings}) as server:
        server.execute(f"CREATE ROLE app LOGIN PASSWORD '{_PASSWORD}'")
        access = server.data / "pg_hba.conf"
        access.write_text(f"host all app all scram-sha-256\n{access.read_text()}")
        server.execute("SELECT pg_reload_conf()")
        yield server


@pytest.fixture(scope="module")
def tls(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """An address with TLS only, and the folder with the certificates of two authorities.

    The server of the tests is built without TLS, so a pooler is before it.
    """
    folder = tmp_path_factory.mktemp("authorities")
    authority = _authority("ours", folder)
    _authority("theirs", folder)
    with pooled(server, certify=lambda place: _certify(place, authority)) as pooler:
        yield f"{pooler.port}/{server.database()}", folder


def _url(address: str, authority: Path, host: str = "localhost") -> str:
    return f"postgresql://postgres@{host}:{address}?sslmode=verify-full&sslrootcert={authority}"


async def test_a_verified_server_is_used(tls: tuple[str, Path]) -> None:
    """``verify-full`` and ``sslrootcert`` in the URL hold for the start and for the store."""
    address, folder = tls
    with pytest.raises(psycopg.OperationalError, match="SSL required"):
        psycopg.connect(f"postgresql://postgres@localhost:{address}?sslmode=disable")
    url = _url(address, folder / "ours.crt")
    async with RefreshTokenStorage(url, encryption_key=KEY) as storage:
        await storage.store_refresh_token("alice", "token")
        assert await storage.list_user_ids() == ["alice"]


@pytest.mark.parametrize(("authority", "host"), [("theirs", "localhost"), ("ours", "127.0.0.1")])
def test_another_authority_or_name_is_refused(
    authority: str, host: str, tls: tuple[str, Path]
) -> None:
    """At once, and one line says that the certificate was not accepted."""
    address, folder = tls
    begun = time.monotonic()
    with refuses("unreachable", match="certificate") as caught:
        prepare(connect(_url(address, folder / f"{authority}.crt", host)), lock_timeout=30)
    assert time.monotonic() - begun < 10
    assert "\n" not in caught.value.message


def test_a_wrong_password_is_named_and_not_shown(server: Server) -> None:
    """At once, with the role, in a message and a remedy without the password."""
    address = f"127.0.0.1:{server.settings['port']}/postgres"
    wrong = f"not-{_PASSWORD}"
    begun = time.monotonic()
    with refuses("unreachable", match="password authentication failed") as caught:
        prepare(connect(f"postgresql://app:{wrong}@{address}"), lock_timeout=30)
    assert time.monotonic() - begun < 5
    assert _PASSWORD not in f"{caught.value} {caught.value.remedy} {caught.value!r}"
    assert inspect(connect(f"postgresql://app:{_PASSWORD}@{address}")).exists is not None


def test_too_many_connections_are_named(server: Server) -> None:
    """A start at a server without a free connection says so."""
    with ExitStack() as stack:
        with suppress(psycopg.OperationalError):
            for _ in range(20):
                stack.enter_context(psycopg.connect(server.url(), autocommit=True))
        with refuses("unreachable", match="too many clients"):
            prepare(connect(server.url()), lock_timeout=5)


def test_nobody_is_reported_at_once() -> None:
    """``db current`` does not wait for a server that is not there."""
    url = f"postgresql://postgres@127.0.0.1:{free_port()}/postgres"
    begun = time.monotonic()
    with refuses("unreachable"):
        inspect(connect(url))
    assert time.monotonic() - begun < 2
    command = (sys.executable, "-m", "nextcloud_mcp_server", "db", "current", "-u", url)
    done = run_program(*command, cwd=ROOT)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "unreachable" in done.stderr or "cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def _error(state: bytes, message: bytes) -> bytes:
    """Return an error as the server sends it while a client connects."""
    fields = b"SFATAL\0VFATAL\0C" + state + b"\0M" + message + b"\0\0"
    return b"E" + (len(fields) + 4).to_bytes(4) + fields


#: Answers as a server that is starting, until it gets a line; then it is a proxy. In a process of
#: its own, because a ping of libpq lets no other thread run.
_STARTING = """
import sys
from pathlib import Path
from tests.support.proxy import Proxy
proxy = Proxy(Path(sys.argv[1]))
proxy.refuses, proxy.refusal = True, bytes.fromhex(sys.argv[2])
print(proxy.port, flush=True)
sys.stdin.readline()
proxy.refuses = False
sys.stdin.readline()
"""


def test_a_server_that_is_starting_is_waited_for(
    postgresql_server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what is waited for; after the deadline the start fails with the same reason."""
    monkeypatch.setattr(module, "_TELL_INTERVAL", 0.2)
    name, _ = postgresql_server.schema()
    refusal = _error(b"57P03", b"the database system is starting up")
    starting = Child(_STARTING, postgresql_server.folder / ".s.PGSQL.5432", refusal.hex())
    try:
        address = f"postgres@127.0.0.1:{starting.answer()}/postgres?sslmode=disable"
        database = connect(f"postgresql://{address}&options=-csearch_path%3D{name}")
        with refuses("unreachable", match="is starting up"):
            prepare(database, lock_timeout=0.5)
        caplog.clear()
        threading.Timer(1, starting.tell).start()
        assert prepare(database, lock_timeout=30).action == "create"
        assert "the database system is starting up" in caplog.text
    finally:
        starting.kill()
