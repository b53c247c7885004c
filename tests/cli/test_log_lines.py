"""The warnings of a command: each once, with its prefix; and so the line with the database."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.migrations import upgrade_database
from tests.cli.conftest import Command
from tests.cli.places import execute
from tests.support.contents import KEY, OTHER_KEY


async def _store(path: Path, key: str, *users: str) -> None:
    async with RefreshTokenStorage(path, encryption_key=key) as storage:
        for user in users:
            await storage.store_refresh_token(user, "token")


@pytest.mark.parametrize(
    "typed",
    [
        *("db doctor", "db downgrade --dry-run", "db audit verify", "db upgrade"),
        *("keys list", "keys rotate", "keys introduce"),
    ],
)
def test_a_readable_key_file_is_warned_of_once(
    typed: str, database: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often a command reads it."""
    asyncio.run(_store(database, KEY, "alice"))
    file = tmp_path / "keys" / "key"
    file.parent.mkdir()
    file.write_text(KEY, "utf-8")
    file.chmod(0o644)
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY_FILE", str(file))
    done = command(*typed.split(), "-d", str(database))
    told = f"warning: Every user can read the key file {file} (mode 0644)"
    lines = [line for line in done.err.splitlines() if "Every user" in line]
    assert lines == [told], done


@pytest.mark.parametrize(
    "typed", ["db downgrade --yes -r 103 -d {0}", "db copy --from {0} --to {0}2 --yes"]
)
def test_secrets_that_no_key_opens_are_warned_of_once(
    typed: str, database: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preview and the change itself verify the keys."""
    asyncio.run(_store(database, KEY, "alice", "bob"))
    other = database.with_name("other.db")
    asyncio.run(_store(other, OTHER_KEY, "carol"))
    execute(
        database,
        f"ATTACH '{other}' AS other",
        "INSERT INTO refresh_tokens SELECT * FROM other.refresh_tokens",
    )
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)
    done = command(*typed.format(database).split())
    lines = [line for line in done.err.splitlines() if "No given key opens" in line]
    [line] = lines
    assert line.startswith("warning: No given key opens 1 of the 3 secrets that a start tries in ")


@pytest.mark.parametrize("typed", ["db backups --verify", "db doctor", "keys list", "db history"])
def test_the_database_of_the_settings_is_named_once(
    typed: str, database: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if a command needs its place and its settings."""
    upgrade_database(database)
    monkeypatch.setenv("TOKEN_STORAGE_DB", str(database))
    done = command(*typed.split())
    assert done.out.count("(from TOKEN_STORAGE_DB)") == 1, done.out
