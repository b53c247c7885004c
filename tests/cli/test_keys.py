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

from nextcloud_mcp_server.backends.sqlite import compact
from nextcloud_mcp_server.cli.output import PROGRAM
from nextcloud_mcp_server.crypto.keyfile import key_path
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
    assert [line.split() for line in done.out.splitlines()[:4]] == [
        ["key", "format", "state", "given", "created", "table", "secrets"],
        [NEWEST, "v2", "not", "registered", "yes", "-", "-", "0"],
        [OLDER, "v2", "not", "registered", "yes", "-", "-", "0"],
        [OLDER, "fernet", "not", "registered", "yes", "-", "refresh_tokens", "1"],
    ]
    assert done.out.splitlines()[4:] == [
        "1 value: no given key opens it:",
        "  refresh_tokens.encrypted_token of 'bob\\x1b[2J'",
    ]


def test_list_as_json(keys: Command, database: Path) -> None:
    """The document has the numbers by key and table, and every secret that no key opens."""
    facts = json.loads(keys("list", "--json").out)
    unregistered = {"state": None, "given": True, "created_at": None}
    assert facts == {
        "database": str(database),
        "exists": True,
        "keys": [
            {"fingerprint": NEWEST, "kind": "v2", **unregistered, "secrets": {}},
            {"fingerprint": OLDER, "kind": "v2", **unregistered, "secrets": {}},
            {
                "fingerprint": OLDER,
                "kind": "fernet",
                **unregistered,
                "secrets": {"refresh_tokens": 1},
            },
        ],
        "plain": [],
        "unopened": [
            {
                "table": "refresh_tokens",
                "column": "encrypted_token",
                "row": "bob\x1b[2J",
                "reason": "no given key opens it",
            }
        ],
    }


def test_the_life_of_a_key(
    database: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command says what the next one is, and twice does the same as once."""
    upgrade_database(database)
    grant(database, "alice")

    def keys(*arguments: str) -> list[str]:
        done = command("keys", *arguments, "-d", str(database))
        assert (done.status, done.err) == (0, ""), arguments
        return done.out.splitlines()

    place = f"-d {database}"
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)
    assert keys("introduce") == [f"key {OLDER} is the first one that is registered: it encrypts"]
    assert keys("introduce") == [f"key {OLDER} is registered already: primary"]
    assert keys("rotate")[0] == f"encrypted 1 row with key {OLDER} (1 in refresh_tokens)"
    assert keys("retire", OLDER)[0] == (
        f"key {OLDER} is retired for values of released versions (fernet)"
    )
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", f"{NEW};{KEY}")
    for _ in range(2):
        assert keys("introduce", NEWEST) == [
            f"key {NEWEST} is introduced: it opens, and does not encrypt yet",
            (
                "before you promote it, every server must have it: restart those that have "
                "their keys in a variable"
            ),
            f"then: nextcloud-mcp-server keys promote {NEWEST} {place}",
        ]
    assert keys("rotate")[-1] == (
        f"key {NEWEST} is given first and does not encrypt: {PROGRAM} keys promote {NEWEST} {place}"
    )
    assert keys("promote", NEWEST) == [
        f"key {NEWEST} encrypts now",
        f"a server without key {NEWEST} can store no secret, and cannot read what it encrypts",
        f"next: {PROGRAM} keys rotate {place}",
    ]
    assert keys("promote", NEWEST)[0] == f"key {NEWEST} encrypts already"
    assert keys("rotate") == [
        f"encrypted 1 row with key {NEWEST} (1 in refresh_tokens)",
        f"no value needs key {OLDER} as v2 any more: {PROGRAM} keys retire {OLDER} {place}",
    ]
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", NEW)
    assert keys("retire", OLDER) == [
        f"key {OLDER} is retired",
        "keep it elsewhere: backups from before and older entries of the audit log need it",
    ]
    assert keys("retire", OLDER)[0] == f"key {OLDER} was retired already"
    states = {
        (k["fingerprint"], k["kind"]): k["state"]
        for k in json.loads("".join(keys("list", "--json")))["keys"]
    }
    assert states == {
        (OLDER, "v2"): "retired", (OLDER, "fernet"): "retired", (NEWEST, "v2"): "primary",
    }  # fmt: skip
    assert tokens(database, NEW) == {"alice": "alice"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["introduce", "00000000"], "Key 00000000 was not given"),
        (["promote", "00000000"], "Key 00000000 was not given"),
        (["retire", "00000000"], "No key 00000000 is registered"),
        (["retire", OLDER], "because of 1 value "),
        (["introduce", "--fernet"], "Several keys were given"),
    ],
)
def test_a_key_that_cannot_be_changed_is_refused(
    keys: Command, arguments: list[str], message: str
) -> None:
    """With one line and a remedy; nothing is changed."""
    keys("introduce")
    before = keys("list").out
    done = keys(*arguments)
    assert done.status == 1
    assert message in done.err
    assert done.err.splitlines()[1].startswith("remedy: ")
    assert keys("list").out == before


def test_a_key_in_place_of_its_fingerprint_is_not_printed(keys: Command) -> None:
    """A mistake that would put it into a terminal's history twice."""
    for name in ("introduce", "promote", "retire"):
        done = keys(name, KEY)
        assert done.status == 2
        assert "never a key" in done.err


def test_list_without_a_file(
    database: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that there is no file, as `db current` does, and lists the keys that are set."""
    done = command("keys", "list", "-d", str(database))
    assert (done.status, done.out) == (0, "new (no file)\n")
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)
    done = command("keys", "list", "-d", str(database))
    assert done.out.splitlines()[0] == "new (no file)"
    assert done.out.splitlines()[2].split() == [
        OLDER,
        "v2",
        "not",
        "registered",
        "yes",
        "-",
        "-",
        "0",
    ]
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
    """The number by table, and what no key opens: that needs the older key, perhaps."""
    done = keys("rotate")
    assert done.status == 0
    assert done.out.splitlines() == [
        f"encrypted 1 row with key {NEWEST} (1 in refresh_tokens)",
        "1 value: no given key opens it:",
        "  refresh_tokens.encrypted_token of 'bob\\x1b[2J'",
    ]
    execute(database, "DELETE FROM refresh_tokens WHERE user_id <> 'alice'")
    assert tokens(database, NEW) == {"alice": "alice"}


def test_rotate_as_json(keys: Command) -> None:
    """The document has the numbers afterwards, and those of this run; again they are none."""
    facts = json.loads(keys("rotate", "--json").out)
    assert (facts["rotated"], facts["pending"]) == ({"refresh_tokens": 1}, {})
    [primary] = [key for key in facts["keys"] if key["state"] == "primary"]
    assert (primary["fingerprint"], primary["secrets"]) == (NEWEST, {"refresh_tokens": 1})
    assert len(facts["unopened"]) == 1
    assert json.loads(keys("rotate", "--json").out)["rotated"] == {}


def test_what_could_not_be_removed_is_said(
    keys: Command, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both commands succeed beside a program that reads, name it, and say what to type."""
    monkeypatch.setattr(compact, "_PATIENCE", 0.1)
    execute(database, "DELETE FROM refresh_tokens WHERE user_id <> 'alice'")
    again = f"When that is solved: nextcloud-mcp-server keys rotate -d {database}"
    with opened(database) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM refresh_tokens").fetchall()
        for command in (("rotate",), ("retire", OLDER)):
            done = keys(*command)
            assert done.status == 0
            line = done.out.splitlines()[1]
            assert line.startswith("old values may still be in unused parts of the file. Another ")
            assert line.endswith(again)
            assert again not in keys(*command, "--json").out
            assert "keeps writing to" in json.loads(keys(*command, "--json").out)["not_compacted"]
    for command in (("rotate",), ("retire", OLDER)):
        assert "old values" not in keys(*command).out
        assert json.loads(keys(*command, "--json").out)["not_compacted"] is None


def test_rotate_fails_if_a_value_is_left(keys: Command, database: Path) -> None:
    """Then no key can be retired yet."""
    execute(
        database,
        "CREATE TRIGGER keep BEFORE UPDATE ON refresh_tokens BEGIN SELECT RAISE(IGNORE); END",
    )
    done = keys("rotate")
    assert done.status == 1
    assert "not stored: 1 in refresh_tokens" in done.out
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


#: Commands that change keys, and the code for a wrong path of each kind.
CHANGING = (("rotate",), ("introduce",), ("promote", OLDER), ("retire", OLDER))
MISTYPED = {"nothing": "bad-path", "a text": "not-a-database", "foreign": "foreign"}


@pytest.mark.parametrize("there", MISTYPED)
@pytest.mark.parametrize("typed", CHANGING, ids=[one[0] for one in CHANGING])
def test_a_mistyped_path_is_named_before_the_keys(
    typed: tuple[str, ...], there: str, tmp_path: Path, command: Command
) -> None:
    """The key lies beside another file: no key is missing, the path is wrong."""
    path = tmp_path / "typo.db"
    if there == "a text":
        path.write_text("root:x:0:0:root:/root:/bin/bash\n" * 20, "utf-8")
    elif there == "foreign":
        execute(path, "CREATE TABLE bookmarks (url TEXT)")
    done = command("keys", *typed, "-d", str(path))
    assert (done.status, done.out) == (1, "")
    assert f"[{MISTYPED[there]}]" in done.err
    assert path.exists() == (there != "nothing")


@pytest.mark.parametrize("typed", [("rotate",), ("introduce", "--fernet")], ids=" ".join)
def test_the_right_key_beside_the_database_is_named(
    typed: tuple[str, ...], database: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong key in the variable, and the right one in the file: the remedy says so."""
    upgrade_database(database)
    grant(database, "alice")
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)
    assert command("keys", "introduce", "-d", str(database)).status == 0
    beside = key_path(database)
    beside.touch(0o600)
    beside.write_text(KEY, "utf-8")
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", NEW)
    done = command("keys", *typed, "-d", str(database))
    assert "[wrong-key]" in done.err
    assert f"remedy: {beside} has the right key. Unset TOKEN_ENCRYPTION_KEY" in done.err
