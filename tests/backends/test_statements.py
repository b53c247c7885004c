"""A statement that is compiled once gives the same results as SQLAlchemy."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    StaticPool,
    Table,
    Text,
    bindparam,
    create_engine,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from nextcloud_mcp_server.backends.sqlite.driver import DriverConnection, prepared
from nextcloud_mcp_server.schema.tables import Ciphertext

things = Table(
    "things",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("name", Text),
    Column("secret", Ciphertext),
    Column("plain", LargeBinary),
    Column("flag", Boolean),
)

WRITES: list[tuple[Any, dict[str, Any] | None]] = [
    (insert(things).values(id=1, name="one", secret=b"s", plain=b"p", flag=True).inline(), None),
    (insert(things).values(id=bindparam("n"), flag=bindparam("f")).inline(), {"n": 2, "f": False}),
    (insert(things).values(id=3, name=bindparam("name", "three")).inline(), {}),
    (text("INSERT INTO things (id, secret) VALUES (:id, :secret)"), {"id": 4, "secret": "text"}),
    (update(things).where(things.c.id == bindparam("of")).values(name="x"), {"of": 1}),
    (update(things).values(name=func.coalesce(bindparam("given"), things.c.name)), {"given": None}),
    (delete(things).where(things.c.id == bindparam("id")), {"id": 3}),
]

READS: list[tuple[Any, dict[str, Any] | None]] = [
    (select(things).order_by(things.c.id), None),
    (select(things.c.flag, things.c.secret).where(things.c.id == bindparam("id")), {"id": 2}),
    (select(func.count()).select_from(things), None),
    (select(things.c.name.label("own")).limit(bindparam("most")), {"most": 1}),
    (text("SELECT id, name FROM things WHERE id > :low"), {"low": 1}),
]


@pytest.fixture
def raw() -> Iterator[sqlite3.Connection]:
    """A database in memory with the table."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(
            "CREATE TABLE things (id INTEGER PRIMARY KEY, name, secret, plain, flag)"
        )
        yield connection


@pytest.fixture
def core(raw: sqlite3.Connection) -> Iterator[Connection]:
    """SQLAlchemy on the same database."""
    engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
    with engine.connect() as connection:
        yield connection


def test_results_are_those_of_sqlalchemy(raw: sqlite3.Connection, core: Connection) -> None:
    """Row counts, rows, and their names and types are the same."""
    connection = DriverConnection(raw)
    for statement, parameters in WRITES:
        raw.execute("SAVEPOINT s")
        expected = core.execute(statement, parameters).rowcount
        raw.execute("ROLLBACK TO s")
        assert connection.run(statement, parameters) == expected, str(statement)
        raw.execute("RELEASE s")
    for statement, parameters in READS:
        rows = core.execute(statement, parameters).all()
        found = connection.all(statement, parameters)
        assert [tuple(row) for row in found] == [tuple(row) for row in rows], str(statement)
        assert [row._fields for row in found] == [row._fields for row in rows]
        first = connection.first(statement, parameters)
        assert first is not None
        assert tuple(first) == tuple(rows[0])
        assert [type(value) for value in first] == [type(value) for value in rows[0]]


def test_a_statement_is_compiled_once() -> None:
    """The second use of a statement returns the same prepared statement."""
    statement = select(things.c.id)
    assert prepared(statement) is prepared(statement)


def test_a_missing_parameter_is_an_error(raw: sqlite3.Connection) -> None:
    """A missing parameter is never stored as NULL."""
    statement = insert(things).values(id=bindparam("id"), name=bindparam("name")).inline()
    with pytest.raises(KeyError):
        DriverConnection(raw).run(statement, {"id": 1})
    assert raw.execute("SELECT count(*) FROM things").fetchone() == (0,)


def test_first_ends_the_statement(raw: sqlite3.Connection) -> None:
    """After the first of many rows the table can be dropped."""
    connection = DriverConnection(raw)
    connection.run(text("INSERT INTO things (id) VALUES (1), (2), (3)"))
    assert connection.first(select(things.c.id)) is not None
    raw.execute("DROP TABLE things")
