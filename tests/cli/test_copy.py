"""`db copy` shows what it copies, asks, and lists what cannot be carried over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command, Db
from tests.cli.places import execute, rows
from tests.support.contents import KEY, encrypted
from tests.support.postgresql import Server


@pytest.fixture
def filled(db: Db, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file at head with a surplus table, and the key of its secrets in the settings."""
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)
    path = db.put("at-head")
    execute(
        path,
        f"UPDATE refresh_tokens SET encrypted_token = x'{encrypted('rt').hex()}'",
        "CREATE TABLE op_log (line TEXT)",
        "INSERT INTO op_log VALUES ('a')",
    )
    return path


def test_it_shows_what_it_copies_and_asks(filled: Path, tmp_path: Path, command: Command) -> None:
    """The tables and what stays behind come first; after any answer but yes, nothing is made."""
    target = tmp_path / "new.db"
    places = ("--from", str(filled), "--to", str(target))
    done = command("db", "copy", *places, stdin=b"n\n")
    assert (done.status, done.out, target.exists()) == (1, "", False)
    assert done.err.startswith(f"{filled} has ")
    assert "stays behind: table op_log (1 row)\n" in done.err
    assert f"db copy --from {filled} --to {target} --yes" in done.err
    done = command("db", "copy", *places, stdin=b"y\n")
    assert done.status == 0
    assert f" from {filled} to {target} in " in done.out
    assert "compared: every table has the same rows; " in done.out
    query = "SELECT count(*) FROM refresh_tokens"
    assert rows(target, query) == rows(filled, query)


def test_to_a_server_and_back(
    filled: Path, tmp_path: Path, command: Command, postgresql_server: Server
) -> None:
    """The document has the numbers, and a warning says what is not known about a server."""
    _, url = postgresql_server.schema()
    there = command("db", "copy", "--from", str(filled), "--to", url, "--yes", "--json")
    document = json.loads(there.out)
    assert (there.status, document["target"]) == (0, url)
    assert document["secrets_decrypted"] > 0
    assert {"what": "table", "name": "op_log", "rows": 1} in document["left_behind"]
    back = command("db", "copy", "--from", url, "--to", str(tmp_path / "new.db"), "--yes")
    assert back.status == 0
    assert "whether a server is running on" in back.err
    assert f"copied 1 row from {url}" in back.out


def test_problems_are_listed(filled: Path, tmp_path: Path, command: Command) -> None:
    """Each line has the table, the row, the column and the reason; the exit status is 1."""
    execute(filled, "UPDATE refresh_tokens SET expires_at = 'secret' WHERE user_id = 'alice'")
    arguments = ("db", "copy", "--from", str(filled), "--to", str(tmp_path / "new.db"), "--yes")
    done = command(*arguments)
    assert done.status == 1
    line = "refresh_tokens, user_id alice: expires_at is text, not a whole number\n"
    assert line in done.err
    assert "[unreadable]" in done.err
    document = json.loads(command(*arguments, "--json").out)
    assert document["problems"] == [
        {
            "table": "refresh_tokens",
            "row": "user_id alice",
            "column": "expires_at",
            "reason": "is text, not a whole number",
        }
    ]
    assert (document["problem_count"], document["error"]["code"]) == (1, "unreadable")
    assert not (tmp_path / "new.db").exists()


def test_the_rest_of_many_problems_is_counted(
    filled: Path, tmp_path: Path, command: Command
) -> None:
    """Only the first hundred are printed."""
    execute(
        filled,
        "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 1101) "
        "INSERT INTO audit_logs (id, timestamp, event, user_id) SELECT i, 0.5, 'e', 'u' FROM n",
    )
    done = command("db", "copy", "--from", str(filled), "--to", str(tmp_path / "new.db"), "--yes")
    assert "\nand 2 more\n" in done.err


def test_the_key_file_beside_the_source_is_named(
    filled: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target without the key would be of no use, so the last line says where it is."""
    monkeypatch.delenv("TOKEN_ENCRYPTION_KEY")
    key = filled.with_name(f"{filled.name}.key")
    key.touch(0o600)
    key.write_text(KEY)
    done = command("db", "copy", "--from", str(filled), "--to", str(tmp_path / "new.db"), "--yes")
    assert done.out.splitlines()[-1].startswith(
        f"keys: the servers of the copy need the key in {key}"
    )


def test_without_keys_no_secret_is_decrypted(
    filled: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a key it fails, unless it is told to go on."""
    monkeypatch.delenv("TOKEN_ENCRYPTION_KEY")
    arguments = ("db", "copy", "--from", str(filled), "--to", str(tmp_path / "new.db"), "--yes")
    assert "[key-missing]" in command(*arguments).err
    assert "no secret was decrypted" in command(*arguments, "--without-keys").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "a.db"], "Missing option '--to'"),
        (["--from", " ", "--to", "b.db"], "it is empty"),
        (["--from", "mysql://u@h/d", "--to", "b.db"], "[unsupported-database]"),
        (["--from", "a.db", "--to", ":memory:"], "[bad-path]"),
        (["--from", "a.db", "--to", "a.db"], "cannot be copied to itself"),
    ],
)
def test_wrong_usage(
    arguments: list[str],
    message: str,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A malformed place exits with 2."""
    monkeypatch.chdir(tmp_path)
    done = command("db", "copy", *arguments)
    assert (done.status, message in done.err) == (2, True)


def test_a_password_is_printed_nowhere(filled: Path, command: Command) -> None:
    """The password of a server that cannot be reached is in no line, also with --debug."""
    url = "postgresql://user:hunter2@127.0.0.1:1/tokens"
    for places in (("--from", url, "--to", str(filled)), ("--from", str(filled), "--to", url)):
        for more in ((), ("--json",), ("--debug",)):
            done = command("db", "copy", *places, "--yes", *more)
            assert done.status == 1
            assert "hunter2" not in done.out + done.err
            assert "127.0.0.1" in done.out + done.err
