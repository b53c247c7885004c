"""A proxy around each connection of sqlite3, as tools that trace databases make them.

Importing this module replaces ``sqlite3.connect``, so import it in a process of its own. No C
function takes such a proxy for a connection.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import aiosqlite
import aiosqlite.core

_connect = sqlite3.connect

#: How many proxies were made.
made: list[str] = []


class Proxy:
    """Delegates every attribute to a connection."""

    def __init__(self, wrapped: Any) -> None:
        object.__setattr__(self, "__wrapped__", wrapped)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "__wrapped__"), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(object.__getattribute__(self, "__wrapped__"), name, value)

    def __enter__(self) -> Proxy:
        self.__wrapped__.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self.__wrapped__.__exit__(*error)


def connect(*arguments: Any, **options: Any) -> Any:
    """Connect, and return a proxy."""
    made.append(str(arguments[0]))
    return Proxy(_connect(*arguments, **options))


sqlite3.connect = sqlite3.dbapi2.connect = connect


def replace_classes() -> None:
    """Replace the classes of the connections too, as a factory of wrapt does."""
    own, asynchronous = sqlite3.Connection, aiosqlite.Connection

    def connection(*arguments: Any, **options: Any) -> Any:
        return Proxy(own(*arguments, **options))

    def async_connection(*arguments: Any, **options: Any) -> Any:
        return Proxy(asynchronous(*arguments, **options))

    replaced: Any = connection
    sqlite3.Connection = sqlite3.dbapi2.Connection = replaced  # type: ignore[misc]
    replaced = async_connection
    aiosqlite.Connection = aiosqlite.core.Connection = replaced  # type: ignore[misc]
