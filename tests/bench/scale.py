"""A large database on a server of PostgreSQL: bytes per row, lookups that stay fast, deletions."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Final

import psycopg
from cryptography.fernet import Fernet

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.maintenance.copy.run import Copy
from nextcloud_mcp_server.migrate.startup import prepare
from nextcloud_mcp_server.schema.tables import metadata
from nextcloud_mcp_server.settings import Settings
from tests.bench.harness import Clock, Pairs, Row, compare, fact, timed, undisturbed
from tests.bench.place import KEY, THEN, TOKEN, Place, user
from tests.support.postgresql import Server, running

#: A lookup in a large table may take this many times the one in a table of ten rows.
_GROWTH: Final = 2.0

#: The bytes of a row with its indexes, by table.
_BYTES: Final = {"refresh_tokens": 700, "oauth_sessions": 700, "audit_logs": 400}

#: How the rows of each table are made; the first parameter is their number.
_FILL: Final = {
    "refresh_tokens": (
        "INSERT INTO {schema}.refresh_tokens (user_id, encrypted_token, expires_at, created_at, "
        "updated_at, scopes) SELECT 'user-' || lpad(n::text, 7, '0'), '{token}'::bytea, "
        "CASE WHEN n % 50 = 0 THEN {then} ELSE 4000000000 END, {then}, {then}, "
        '\'["openid", "offline_access"]\' '
        "FROM generate_series(0, {rows} - 1) n"
    ),
    "oauth_sessions": (
        "INSERT INTO {schema}.oauth_sessions (session_id, client_redirect_uri, state, "
        "mcp_authorization_code, created_at, expires_at) SELECT md5('s' || n), "
        "'http://localhost/callback', md5('t' || n), md5('c' || n), {then}, 4000000000 "
        "FROM generate_series(0, {rows} - 1) n"
    ),
    "audit_logs": (
        "INSERT INTO {schema}.audit_logs (timestamp, event, user_id, auth_method, hostname) "
        "SELECT {then} + n, 'store_refresh_token', 'user-' || lpad(n::text, 7, '0'), "
        "'offline_access', 'replica-1' FROM generate_series(0, {rows} - 1) n"
    ),
}


#: The types of PostgreSQL, for COPY in its binary form.
_TYPES: Final = {"TEXT": "text", "BLOB": "bytea", "BIGINT": "int8"}

#: Makes a lookup from a store and the number of its rows.
_Work = Callable[[RefreshTokenStorage, int], Callable[[int], Awaitable[object]]]


def _filled(server: Server, rows: int) -> tuple[str, str]:
    schema, url = server.schema()
    prepare(connect(url))
    token = Fernet(KEY).encrypt(TOKEN.encode()).decode()
    values = {"schema": schema, "token": token, "then": THEN, "rows": rows}
    for table, statement in _FILL.items():
        server.execute(statement.format(**values), f"VACUUM (FREEZE, ANALYZE) {schema}.{table}")
    return schema, url


def rows(place: Place) -> Iterator[Row]:
    """Yield the figures of a database with as many rows as the largest file of the others."""
    small, large = place.scale.rows[0], place.scale.rows[-1]
    with running() as server, asyncio.Runner() as runner:
        (_, few), (schema, many) = _filled(server, small), _filled(server, large)
        for table, limit in _BYTES.items():
            [(size,)] = server.execute(f"SELECT pg_total_relation_size('{schema}.{table}')")
            each = size // large
            # A tiny table is mostly empty pages.
            yield fact(
                f"PostgreSQL: bytes per row of {table}, with its indexes",
                str(each),
                f"at most {limit}",
                holds=each <= limit or large < 1000,
            )
        stores = [RefreshTokenStorage(url, encryption_key=KEY) for url in (few, many)]
        for store in stores:
            runner.run(store.initialize())
        try:
            yield from _lookups(place, runner, stores, (small, large))
            yield _deletion(runner, stores[1], large)
        finally:
            for store in stores:
                runner.run(store.close())
        yield _copied(place, server).judged(
            f"`db copy` of {large:,} rows to PostgreSQL",
            "reading, COPY, reading back, and a hash of each row on both sides",
            1.5,
        )


def _copied(place: Place, server: Server) -> Pairs:
    """Measure a copy of the large file, and its work without any check."""
    path = place.database("copied", place.scale.rows[-1])

    def base() -> float:
        _, url = server.schema_at_head()
        return timed(lambda: _bare_copy(path, url))()

    def ours() -> float:
        _, url = server.schema_at_head()
        copy = Copy(Settings(path), Settings(ServerUrl(url)), without_keys=True)
        return timed(copy.run)()

    return compare(base, ours, max(1, place.scale.large // 3))


def _bare_copy(path: Path, url: str) -> None:
    names = ", ".join(c.name for c in metadata.tables["refresh_tokens"].columns)
    types = [_TYPES[str(c.type)] for c in metadata.tables["refresh_tokens"].columns]
    with closing(sqlite3.connect(path)) as file, closing(psycopg.connect(url)) as connection:
        sent, back = 0, 0
        into = f"COPY refresh_tokens ({names}) FROM STDIN (FORMAT BINARY)"
        with connection.cursor().copy(into) as copy:
            copy.set_types(types)
            for row in file.execute(f"SELECT {names} FROM refresh_tokens"):
                sent ^= _digest(row)
                copy.write_row(row)
        with connection.cursor(name="back") as cursor:
            for row in cursor.execute(f"SELECT {names} FROM refresh_tokens"):
                back ^= _digest(row)
        connection.commit()
    assert sent == back


def _digest(row: tuple[object, ...]) -> int:
    return int.from_bytes(sha256(repr(row).encode()).digest(), "big")


def _lookups(
    place: Place,
    runner: asyncio.Runner,
    stores: list[RefreshTokenStorage],
    sizes: tuple[int, int],
) -> Iterator[Row]:
    def clock(work: Callable[[int], Awaitable[object]]) -> Clock:
        async def main() -> float:
            begun = time.perf_counter()
            for number in range(place.scale.calls):
                await work(number * 7919)
            return (time.perf_counter() - begun) / place.scale.calls

        def lookups() -> float:
            with undisturbed():
                return runner.run(main())

        return lookups

    def compared(
        work: Callable[[RefreshTokenStorage, int], Callable[[int], Awaitable[object]]],
    ) -> Pairs:
        clocks = [clock(work(store, size)) for store, size in zip(stores, sizes, strict=True)]
        return compare(clocks[0], clocks[1], place.scale.rounds, warm=place.scale.warm)

    baseline = f"the same with {sizes[0]} rows"
    for what, work in (
        ("get", lambda s, size: lambda n: s.get_refresh_token(user(n % size))),
        (
            "durable store",
            lambda s, size: lambda n: s.store_refresh_token(user(n % size), TOKEN),
        ),
        ("a session by its state", lambda s, _: lambda n: s.oauth_sessions.get_by_state(str(n))),
        ("the newest 100 audit entries", lambda s, _: lambda _n: s.audit.list(limit=100)),
    ):
        yield compared(work).judged(f"PostgreSQL: {what}, {sizes[1]:,} rows", baseline, _GROWTH)


def _deletion(runner: asyncio.Runner, store: RefreshTokenStorage, large: int) -> Row:
    """Return whether every expired token is deleted."""
    begun = time.perf_counter()
    deleted = runner.run(store.delete_expired_refresh_tokens())
    seconds = time.perf_counter() - begun
    return fact(
        f"PostgreSQL: deletion of the expired of {large:,} tokens",
        f"{deleted} in {seconds:.0f} s",
        "one in fifty",
        # The lookups of a tiny run have stored the only one again.
        holds=deleted <= large // 50 + 1 and (deleted > 0 or large < 1000),
    )
