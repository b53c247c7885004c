"""Statements are built once, at import, because building one per call is five times slower."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest
from sqlalchemy import ClauseElement, Dialect, Executable
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.sqlite.base import SQLiteDialect

from nextcloud_mcp_server import auth
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage

ALL = [f"{auth.__name__}.{module.name}" for module in pkgutil.iter_modules(auth.__path__)]


def source_of(module: str) -> str:
    """Return the source of a module."""
    file = importlib.import_module(module).__file__
    assert file is not None
    return Path(file).read_text("utf-8")


#: The modules with statements. They call the functions of `statements` at import.
MODULES = [
    name
    for name in ALL
    if "\nfrom sqlalchemy import" in source_of(name) and not name.endswith(".statements")
]
SQLITE: Dialect = SQLiteDialect()
POSTGRESQL: Dialect = PGDialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's

CALLS = {"select", "insert", "update", "delete", "text", "func", "bindparam", "insertion", "upsert"}
CLAUSES = {"where", "values", "order_by", "limit", "returning"}


def built_in_functions(source: str) -> list[str]:
    """Return the calls that build a statement, or a part of one, inside a function."""
    return [
        ast.unparse(call)
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for call in ast.walk(function)
        if isinstance(call, ast.Call)
        and (
            (isinstance(call.func, ast.Name) and call.func.id in CALLS)
            or (isinstance(call.func, ast.Attribute) and call.func.attr in CLAUSES)
        )
    ]


@pytest.mark.parametrize("name", MODULES)
def test_no_function_builds_a_statement(name: str) -> None:
    """Functions only execute statements that were built at import."""
    assert built_in_functions(source_of(name)) == []


def test_the_search_works() -> None:
    """A statement in a function is found, and every concern is searched."""
    assert len(MODULES) == 8
    source = "def f(c, k):\n    return c.all(select(t).where(t.c.k == k))"
    assert len(built_in_functions(source)) == 2


@pytest.mark.parametrize("name", MODULES)
def test_every_statement_compiles_on_both_engines(name: str) -> None:
    """Every statement can be compiled for SQLite and PostgreSQL."""
    for value in vars(importlib.import_module(name)).values():
        if isinstance(value, Executable) and isinstance(value, ClauseElement):
            for dialect in (SQLITE, POSTGRESQL):
                assert str(value.compile(dialect=dialect))


async def test_a_second_call_compiles_nothing(
    storage: RefreshTokenStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second call on, every statement comes from a cache."""
    compiled: list[str] = []

    async def work() -> None:
        await storage.store_refresh_token("alice", "rt-1")
        await storage.get_refresh_token("alice")
        await storage.delete_refresh_token("alice")
        await storage.oauth_sessions.create("s", "http://x", expires_at=1)
        await storage.oauth_sessions.update("s", user_id="alice")
        await storage.oauth_sessions.delete_expired()
        await storage.audit.list("alice")

    await work()
    compile_ = SQLiteDialect.statement_compiler.__init__

    def counting(
        self: object, dialect: object, statement: object, *rest: object, **kw: object
    ) -> None:
        compiled.append(str(statement))
        compile_(self, dialect, statement, *rest, **kw)  # type: ignore[arg-type]

    monkeypatch.setattr(SQLiteDialect.statement_compiler, "__init__", counting)
    await work()
    assert compiled == []
