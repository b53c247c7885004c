"""After a rotation nothing of what a released version stored in plain text is in the file."""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite import compact as compacting
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.keys.compaction import compact
from nextcloud_mcp_server.maintenance.keys.retire import retire
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.migrations import upgrade_database
from tests.maintenance.keys.helpers import OLDER, given, grant
from tests.support.contents import KEY

#: The sizes of ids and of tokens, so that SQLite moves many rows to other pages.
_SMALL = (0, 3, 30, 80)
_LARGE = (0, 10, 100, 500, 1500, 6000)

_SESSION = """
INSERT INTO oauth_sessions (session_id, client_redirect_uri, idp_access_token, idp_refresh_token,
                            state, nonce, mcp_authorization_code, user_id, created_at, expires_at)
VALUES (?, 'http://x', ?, ?, ?, ?, ?, 'alice', 1, 9999999999)
"""


def _planted(name: str, number: int, size: int) -> str:
    return f"PLANTED-{name}-{number}-{'x' * size}"


def _fill(connection: sqlite3.Connection, chance: random.Random) -> None:
    """Store sessions as a released version did, in any order, and delete some."""
    numbers = list(range(400))
    chance.shuffle(numbers)
    for n in numbers:
        values = (
            _planted("SESSION", n, chance.choice(_SMALL)),
            _planted("ACCESS", n, chance.choice(_LARGE)),
            _planted("REFRESH", n, chance.choice(_LARGE)),
            _planted("STATE", n, 0),
            _planted("NONCE", n, 0),
            _planted("CODE", n, chance.choice(_SMALL)),
        )
        connection.execute(_SESSION, values)
        browser = "INSERT INTO browser_sessions VALUES (?, 'alice', 1, 9999999999)"
        connection.execute(browser, (_planted("BROWSER", n, chance.choice(_SMALL)),))
    for n in chance.sample(numbers, 150):
        connection.execute(
            "DELETE FROM oauth_sessions WHERE session_id LIKE ?", (f"PLANTED-SESSION-{n}-%",)
        )


def _released(path: Path, secure_delete: str, seed: int) -> Path:
    """Create a file with values in plain text and with deleted ones."""
    upgrade_database(path)
    grant(path, "alice")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA secure_delete={secure_delete}")
        _fill(connection, random.Random(seed))  # noqa: S311 - repeatable, not secret
        connection.commit()
    return path


def _left(path: Path) -> set[bytes]:
    """Return the planted values in the file and its companions."""
    return {
        found
        for file in path.parent.glob("tokens.db*")
        for found in re.findall(rb"PLANTED-[A-Z]+-\d+", file.read_bytes())
    }


#: The seeds of the files. With it, SQLite leaves a fragment in two of three, but not in each.
MODES = {"OFF": range(1), "ON": range(3, 6)}


@pytest.fixture(params=MODES)
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Return files that were written with and without ``secure_delete``."""
    return (
        _released(tmp_path / str(seed) / "tokens.db", request.param, seed)
        for seed in MODES[request.param]
    )


def test_a_rotation_leaves_no_old_value_in_the_file(files: Iterator[Path]) -> None:
    """Neither in a free page nor in the unused part of another one."""
    for path in files:
        assert _left(path)
        done = rotate(given(path, KEY))
        assert (sum(done.census.pending.values()), done.not_compacted) == (0, "")
        assert _left(path) == set()


def _no_vacuum(patch: pytest.MonkeyPatch) -> None:
    """Only empty the ``-wal``, as rotations did before."""
    patch.setattr(compacting, "_vacuum", lambda *_: None)


def test_without_the_vacuum_it_does(files: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: a checkpoint and ``secure_delete`` leave some."""
    _no_vacuum(monkeypatch)
    left = set()
    for path in files:
        rotate(given(path, KEY))
        left |= _left(path)
    assert left


def test_a_file_that_was_rotated_without_it_is_compacted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ``keys retire``, and by the next rotation, which has nothing to encrypt."""
    for again in (compact, rotate):
        path = _released(tmp_path / again.__name__ / "tokens.db", "OFF", 0)
        with monkeypatch.context() as patch:
            _no_vacuum(patch)
            rotate(given(path, KEY))
            retire(given(path, KEY), OLDER, fernet=True)
        assert _left(path)
        again(given(path, KEY))
        assert _left(path) == set()


def test_a_reader_of_the_old_values_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rotation succeeds and says why they are there still; the next one removes them."""
    monkeypatch.setattr(compacting, "_PATIENCE", 0.3)
    path = _released(tmp_path / "tokens.db", "OFF", 0)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM oauth_sessions").fetchall()
        done = rotate(given(path, KEY))
        assert sum(done.rotated.values()) > 0
        assert "reading what it held before" in done.not_compacted
        assert _left(path)
    assert rotate(given(path, KEY)).not_compacted == ""
    assert _left(path) == set()


def test_a_full_disk_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rotation succeeds and names the bytes that are needed."""

    def full(*_: object) -> None:
        raise TokenStorageError("There is too little space.", code="disk-full", remedy="-")

    path = _released(tmp_path / "tokens.db", "OFF", 0)
    monkeypatch.setattr(compacting, "require_space", full)
    done = rotate(given(path, KEY))
    assert (sum(done.census.pending.values()), done.not_compacted) == (
        0,
        "There is too little space.",
    )
