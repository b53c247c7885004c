"""The path of a database, from a path or a URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.paths import database_path
from tests.support.errors import attempt, refused, refuses

file_names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1).filter(
    lambda name: name.strip() and name not in {".", "..", ":memory:"}
)


@given(file_names)
def test_a_plain_path_has_no_escapes(name: str) -> None:
    """No character of a path is special."""
    assert database_path(f"/data/{name}") == Path(f"/data/{name}")
    assert database_path(Path(f"/data/{name}")) == Path(f"/data/{name}")


@given(file_names, st.sampled_from(["sqlite", "sqlite+aiosqlite", "SQLite+pysqlite"]))
def test_a_url_is_unquoted(name: str, scheme: str) -> None:
    """Any file name can be written in a URL, with escapes."""
    assert database_path(f"{scheme}:////data/{quote(name)}") == Path(f"/data/{name}")


@given(st.text(max_size=30))
def test_any_text_is_a_path_or_a_named_error(text: str) -> None:
    """Any text gives a path or an error with a remedy."""
    result = attempt(lambda: database_path(text))
    if isinstance(result, TokenStorageError):
        assert result.code in {"bad-path", "unsupported-database"}
        assert result.remedy


@pytest.mark.parametrize(
    "text", ["", "  ", "sqlite://", ":memory:", "sqlite:///:memory:", "file:x?mode=memory", "a\0b"]
)
def test_a_path_that_is_not_a_file_is_refused(text: str) -> None:
    """An empty path, a database in memory and an SQLite URI are refused."""
    with refuses("bad-path"):
        database_path(text)


class _Bytes:
    """A path of bytes."""

    def __fspath__(self) -> bytes:
        return b"tokens.db"

    # The name of a test must be the same in every process.
    def __repr__(self) -> str:
        return "a path of bytes"


@pytest.mark.parametrize("given", [5, b"tokens.db", _Bytes(), ["tokens.db"]], ids=repr)
def test_a_path_must_be_text(given: Any) -> None:
    """Another type is refused."""
    refused(lambda: database_path(given), "bad-path", "not text")
