"""The commands of the group keys: what they print, and that no key is ever printed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.migrations import upgrade_database
from tests.cli.conftest import Command
from tests.cli.places import Done, environment, execute
from tests.maintenance.keys.helpers import NEW, NEWEST, OLDER, grant, grant_many, opened, tokens
from tests.support.contents import KEY, OTHER_KEY


@pytest.fixture
def keys(database: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A function that runs a ``keys`` command on a database with two grants and two keys."""
    upgrade_database(database)
    grant(database, "alice")
    grant(database, "bob\x1b[2J", Fernet(OTHER_KEY).encrypt(b"lost"))
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", f"{NEW};{KEY}")

    def run(*arguments: str, stdin: bytes = b"") -> Done:
        done = command("keys", *arguments, "-d", str(database), stdin=stdin)
        assert not [key for key in (NEW, KEY, OTHER_KEY) if key in done.out + done.err]
        return done

    return run


def test_generate_prints_one_new_key(command: Command) -> None:
    """Its output alone is a key, so that a shell can put it into a variable."""
    first, second = command("keys", "generate"), command("keys", "generate")
    assert (first.status, first.err, first.out.count("\n")) == (0, "", 1)
    assert first.out != second.out
    [fingerprint] = Keyring(first.out.strip()).fingerprints
    facts = json.loads(command("keys", "generate", "--json").out)
    assert Keyring(facts["key"]).fingerprints == (facts["fingerprint"],)
    assert facts["fingerprint"] != fingerprint


def test_list_shows_each_key_and_what_none_opens(keys: Command) -> None:
    """A key without a secret has a line too; the name of a row cannot control the terminal."""
    done = keys("list")
    assert (done.status, done.err) == (0, "")
    assert [line.split() for line in done.out.splitlines()[:3]] == [
        ["key", "use", "table", "secrets"],
        [NEWEST, "encrypts", "-", "0"],
        [OLDER, "opens", "refresh_tokens", "1"],
    ]
    assert done.out.splitlines()[3:] == [
        "no given key opens 1 secret:",
        "  refresh_tokens.encrypted_token of 'bob\\x1b[2J'",
    ]


def test_list_as_json(keys: Command, database: Path) -> None:
    """The document has the numbers by key and table, and every secret that no key opens."""
    assert json.loads(keys("list", "--json").out) == {
        "database": str(database),
        "exists": True,
        "keys": [
            {"fingerprint": NEWEST, "newest": True, "secrets": {}},
            {"fingerprint": OLDER, "newest": False, "secrets": {"refresh_tokens": 1}},
        ],
        "unopened": [{"table": "refresh_tokens", "column": "encrypted_token", "row": "bob\x1b[2J"}],
    }


def test_list_without_a_file(
    database: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that there is no file, as `db current` does, and lists the keys that are set."""
    done = command("keys", "list", "-d", str(database))
    assert (done.status, done.out) == (0, "new (no file)\n")
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)
    done = command("keys", "list", "-d", str(database))
    assert done.out.splitlines()[0] == "new (no file)"
    assert done.out.splitlines()[2].split() == [OLDER, "encrypts", "-", "0"]
    assert json.loads(command("keys", "list", "-d", str(database), "--json").out)["exists"] is False
    assert not database.exists()


def test_a_long_list_is_cut_off(keys: Command, database: Path) -> None:
    """A terminal shows twenty secrets that no key opens, the document all."""
    execute(database, "UPDATE refresh_tokens SET encrypted_token = 'x'")
    for number in range(40):
        grant(database, f"user-{number}", "x")
    lines = keys("list").out.splitlines()
    assert lines[-1] == "  and 22 more (all of them with --json)"
    assert len(lines) < 30
    assert len(json.loads(keys("list", "--json").out)["unopened"]) == 42


def test_rotate_says_what_it_did(keys: Command, database: Path) -> None:
    """The number by table, what no key opens, and which key is not needed any more."""
    done = keys("rotate")
    assert done.status == 0
    assert done.out.splitlines() == [
        f"encrypted 1 secret with key {NEWEST} (1 in refresh_tokens)",
        "no given key opens 1 secret:",
        "  refresh_tokens.encrypted_token of 'bob\\x1b[2J'",
        f"no secret needs key {OLDER} any more; backups still do",
    ]
    execute(database, "DELETE FROM refresh_tokens WHERE user_id <> 'alice'")
    assert tokens(database, NEW) == {"alice": "alice"}


def test_rotate_as_json(keys: Command) -> None:
    """The document has the numbers afterwards, and those of this run; again they are none."""
    facts = json.loads(keys("rotate", "--json").out)
    assert facts["rotated"] == {"refresh_tokens": 1}
    assert [key["secrets"] for key in facts["keys"]] == [{"refresh_tokens": 1}, {}]
    assert len(facts["unopened"]) == 1
    assert json.loads(keys("rotate", "--json").out)["rotated"] == {}


def test_rotate_fails_if_an_older_key_is_still_needed(keys: Command, database: Path) -> None:
    """Then the key must not be removed yet."""
    execute(
        database,
        "CREATE TRIGGER keep BEFORE UPDATE ON refresh_tokens BEGIN SELECT RAISE(IGNORE); END",
    )
    done = keys("rotate")
    assert done.status == 1
    assert f"still encrypted with an older key: 1 with key {OLDER}" in done.out
    assert "any more" not in done.out


def test_an_error_is_one_line_and_a_remedy(
    keys: Command, monkeypatch: pytest.MonkeyPatch, database: Path
) -> None:
    """A wrong key, and a database that is not at head, have their code and change nothing."""
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", Fernet.generate_key().decode())
    assert keys("rotate").err.splitlines()[0].endswith("[wrong-key]")
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", f"{NEW};{KEY}")
    execute(database, "UPDATE alembic_version SET version_num = '010'")
    error = json.loads(keys("rotate", "--json").out)["error"]
    assert error["code"] == "upgrade-pending"
    assert error["remedy"].endswith(f"nextcloud-mcp-server db upgrade -d {database}")


def test_ctrl_c_keeps_what_is_done(database: Path) -> None:
    """The command exits with 130, and the same command does the rest."""
    upgrade_database(database)
    grant_many(database, 5000)
    command = [sys.executable, "-m", "nextcloud_mcp_server", "keys", "rotate", "-d", str(database)]
    environ = environment(database.parent, {"TOKEN_ENCRYPTION_KEY": f"{NEW};{KEY}"})
    first = "SELECT encrypted_token FROM refresh_tokens WHERE rowid = 600"
    with opened(database) as connection:
        old = connection.execute(first).fetchone()
        running = subprocess.Popen(
            command, env=environ, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        while running.poll() is None and connection.execute(first).fetchone() == old:
            time.sleep(0.001)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert "error: Interrupted. What was rotated stays so" in err
    assert "Traceback" not in err
    subprocess.run(command, env=environ, check=True, capture_output=True)
    assert tokens(database, NEW) == {f"user-{n}": f"token-{n}" for n in range(5000)}
