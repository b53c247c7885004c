"""Statements are built once, at import, because building one per call is five times slower.

``tests/backends/test_statements.py`` checks that each is compiled once.
"""

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
    assert len(MODULES) == 13
    source = "def f(c, k):\n    return c.all(select(t).where(t.c.k == k))"
    assert len(built_in_functions(source)) == 2


@pytest.mark.parametrize("name", MODULES)
def test_every_statement_compiles_on_both_engines(name: str) -> None:
    """Every statement can be compiled for SQLite and PostgreSQL."""
    for value in vars(importlib.import_module(name)).values():
        if isinstance(value, Executable) and isinstance(value, ClauseElement):
            for dialect in (SQLITE, POSTGRESQL):
                assert str(value.compile(dialect=dialect))
