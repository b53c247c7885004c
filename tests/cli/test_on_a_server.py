"""The commands on a server: those that work there, and those that answer in one line."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from nextcloud_mcp_server.maintenance.keys.census import count_secrets
from nextcloud_mcp_server.maintenance.keys.promote import introduce, promote
from nextcloud_mcp_server.maintenance.keys.retire import retire
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.migrate import verify
from nextcloud_mcp_server.migrate.startup import prepare
from nextcloud_mcp_server.schema.history import load_history
from nextcloud_mcp_server.settings import Settings, load_settings
from tests.cli.conftest import Command
from tests.support.contents import KEY
from tests.support.postgresql import Server

HEAD = load_history().head


@pytest.fixture
def url(postgresql_server: Server) -> str:
    """The URL of an empty schema."""
    return postgresql_server.schema()[1]


def _settings(url: str, *keys: str) -> Settings:
    return load_settings({}, database=url)._replace(keys=keys)


async def _grant(url: str, *users: str) -> None:
    async with RefreshTokenStorage(url, encryption_key=KEY) as storage:
        for user in users:
            await storage.store_refresh_token(user, f"token of {user}")
            await storage.app_passwords.store(user, f"password of {user}")


def test_keys_are_counted_and_rotated(url: str) -> None:
    """Every secret opens with the new key alone afterwards, and a second rotation does nothing."""
    asyncio.run(_grant(url, *(f"user-{number}" for number in range(20))))
    new = Fernet.generate_key().decode()
    assert sum(count_secrets(_settings(url, KEY)).secrets.values()) == 40
    both, name = _settings(url, new, KEY), Keyring(new).fingerprints[0]
    introduce(both)
    promote(both, name)
    done = rotate(both)
    assert done.rotated == {"refresh_tokens": 20, "app_passwords": 20}
    assert count_secrets(_settings(url, new)).unopened == ()
    assert rotate(both).rotated == {}
    assert len(count_secrets(_settings(url, KEY)).unopened) == 40
    retire(both, Keyring(KEY).fingerprints[0])


def test_a_new_server_has_no_file_to_lack(url: str, command: Command) -> None:
    """`keys list` and `db current` say of an empty schema that it has no tables."""
    for typed in (("keys", "list"), ("db", "current")):
        done = command(*typed, "-u", url)
        assert (done.status, done.err) == (0, "")
        assert done.out.splitlines()[0] == "new (it has no tables)"


def test_the_doctor_of_a_sound_server_finds_no_error(url: str) -> None:
    """It names the server, the state, the grants and the keys; before the first start, too."""
    assert {f.check for f in diagnose(_settings(url, KEY)).findings} >= {"connection", "state"}
    asyncio.run(_grant(url, "alice"))
    findings = diagnose(_settings(url, KEY)).findings
    found = {f.check: f for f in findings}
    assert found["state"].message == f"at-head, {HEAD}"
    name = Keyring([KEY]).fingerprints[0]
    keys = [f.message for f in findings if f.check == "keys"]
    assert f"registered: {name} (v2) primary" in keys
    assert any(f"key {name} is needed for 2 of 2 secrets" in message for message in keys)
    assert {f.level for name, f in found.items() if name != "durability"} == {"ok"}
    other = diagnose(_settings(url, Fernet.generate_key().decode())).findings
    lost = [f.message for f in other if f.check == "keys" and f.level == "error"]
    assert lost == [
        "no given key opens 2 of 2 secrets (1 in app_passwords, 1 in refresh_tokens)",
        f"key {name}, which encrypts, was not given: no server starts",
    ]
    [missing] = [f for f in diagnose(_settings(url)).findings if f.check == "keys"]
    assert (missing.level, missing.message) == (
        "error",
        "it holds 2 secrets, and no key was given",
    )


@pytest.mark.parametrize(
    "typed",
    [
        ("backup",),
        ("backups",),
        ("restore", "--newest"),
        ("upgrade", "--dry-run"),
        ("downgrade", "--dry-run"),
        ("repair",),
    ],
)
def test_a_command_for_files_answers_in_one_line(
    typed: tuple[str, ...], url: str, command: Command
) -> None:
    """It says what it needs, and what to type instead."""
    result = command("db", *typed, "-u", url)
    assert (result.status, result.out) == (1, "")
    error, remedy = result.err.splitlines()
    assert error.endswith("is not one. [unsupported-database]")
    assert "pg_dump" in remedy or "nextcloud-mcp-server db " in remedy


@pytest.mark.parametrize("preview", ["--sql", "--dry-run"])
def test_a_preview_of_a_downgrade_names_the_command_that_asks(
    preview: str, url: str, command: Command
) -> None:
    """Neither preview leads to the other one; the database and the revision are named."""
    assert command("db", "upgrade", "-u", url).status == 0
    result = command("db", "downgrade", "010", preview, "-u", url)
    assert (result.status, result.out) == (1, "")
    typed = shlex.split(result.err.splitlines()[1].partition("nextcloud-mcp-server ")[2])
    assert typed == ["db", "downgrade", "010", "-u", url]
    asked = command(*typed, stdin=b"n\n")
    assert "goes back to revision 010" in asked.err
    assert "Go back?" in asked.err
    assert "[declined]" in asked.err


def test_a_database_is_upgraded_downgraded_and_stamped(url: str, command: Command) -> None:
    """The same words, the same states, the same exit statuses as on a file."""
    assert command("db", "check", "-u", url).status == 3
    assert "created" in command("db", "upgrade", "010", "-u", url).out
    assert command("db", "check", "-u", url).status == 3
    assert f"upgraded {url} from 010 to {HEAD}" in command("db", "upgrade", "-u", url).out
    assert command("db", "check", "-u", url).status == 0
    document = json.loads(command("db", "current", "-u", url, "--json").out)
    assert (document["state"], document["revision"]) == ("at-head", HEAD)
    assert "upgrade" in command("db", "log", "-u", url).out
    assert "current" in command("db", "history", "-u", url).out
    result = command("db", "downgrade", "-r", "009", "-y", "-u", url)
    assert "No backup is made on a server" in result.err
    assert "cannot be known for a database on a server" in result.err
    assert "unstamped" in command("db", "stamp", "base", "-y", "-u", url).out
    assert "stamped" in command("db", "upgrade", "-u", url).out
    assert command("db", "prune", "-y", "-u", url).status == 0


def test_the_statements_are_those_of_the_server(url: str, command: Command) -> None:
    """Types of PostgreSQL, and no pragma."""
    sql = command("db", "upgrade", "--sql", "-u", url).out
    assert "BYTEA" in sql
    assert "PRAGMA" not in sql


def test_a_dump_has_what_is_migrated(
    url: str,
    command: Command,
    postgresql_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is made before the first change; without the tool, or over a file, nothing is changed."""
    dump = tmp_path / "tokens.dump"
    prepare(connect(url), target="010")
    postgresql_server.execute(
        f"INSERT INTO {url.rpartition('%3D')[2]}.refresh_tokens "
        "(user_id, encrypted_token, created_at, updated_at) VALUES ('alice', 'secret', 1, 1)"
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    result = command("db", "upgrade", "--pg-dump", str(dump), "-u", url)
    assert "[backup-failed]" in result.err
    assert not dump.exists()
    monkeypatch.setenv("PATH", f"{postgresql_server.programs}:{os.environ['PATH']}")
    with monkeypatch.context() as patch:
        patch.setattr(verify, "problem", lambda *_: "it was broken on purpose")
        failed = command("db", "upgrade", "--pg-dump", str(dump), "-u", url)
    assert "broken on purpose" in failed.err
    assert not dump.exists(), "the next attempt could not write it"
    dump.touch()
    assert "exists already" in command("db", "upgrade", "--pg-dump", str(dump), "-u", url).err
    dump.unlink()
    result = command("db", "upgrade", "--pg-dump", str(dump), "-u", url)
    assert f"backup: {dump}" in result.out
    assert dump.stat().st_mode & 0o777 == 0o600
    listed = subprocess.check_output(["pg_restore", "--list", str(dump)], text=True)
    assert "TABLE DATA" in listed
    assert "migration_journal" not in listed
    dump.unlink()
    again = command("db", "upgrade", "--pg-dump", str(dump), "-u", url)
    assert "no dump was made, because nothing was migrated" in again.err
