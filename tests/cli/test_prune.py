"""`db prune` shows what it deletes, asks, and deletes it."""

from __future__ import annotations

import json

import pytest

from nextcloud_mcp_server.auth.oauth_sessions import OAuthSessions
from tests.cli.conftest import Db
from tests.cli.places import execute, rows

SESSION = "INSERT INTO browser_sessions VALUES ('s-{0}', 'alice', 1, {1})"
FLOW = "INSERT INTO login_flow_sessions VALUES ('u', x'00', 'e', NULL, 1, 2)"


@pytest.fixture
def filled(db: Db) -> Db:
    """A database with three expired rows, a session that is not, and an expired grant."""
    execute(
        db.put("at-head"),
        *(SESSION.format(number, at) for number, at in enumerate((2, 3, 253_402_300_799))),
        FLOW,
        "UPDATE refresh_tokens SET expires_at = 2",
    )
    return db


def left(db: Db) -> tuple[int, int, int]:
    """Return the numbers of sessions, login flows and grants."""
    [row] = rows(
        db.path,
        "SELECT (SELECT count(*) FROM browser_sessions), "
        "(SELECT count(*) FROM login_flow_sessions), (SELECT count(*) FROM refresh_tokens)",
    )
    return row


def test_it_shows_what_it_deletes_and_asks(filled: Db) -> None:
    """The numbers by table come first; after any answer but yes, nothing is deleted."""
    done = filled("prune", stdin=b"n\n")
    assert (done.status, done.out) == (1, "")
    lines = [line.split() for line in done.err.splitlines()[:7]]
    assert lines == [
        ["table", "expired"],
        ["login_flow_sessions", "1"],
        ["oauth_sessions", "0"],
        ["browser_sessions", "2"],
        ["mcp_tokens", "0"],
        ["mcp_grants", "0"],
        ["mcp_clients", "0"],
    ]
    assert done.err.splitlines()[7] == "Delete 3 rows? [y/N] "
    assert f"db prune -d {filled.path} --yes" in done.err
    assert left(filled) == (3, 1, 1)
    assert filled("prune", stdin=b"y\n").status == 0
    assert left(filled) == (1, 0, 1)


def test_with_yes_it_deletes(filled: Db) -> None:
    """No question is asked, and the result has the numbers."""
    done = filled("prune", "--yes")
    assert (done.status, "[y/N]" in done.err) == (0, False)
    assert done.out == (
        f"deleted 3 expired rows from {filled.path} (1 of login_flow_sessions, "
        "2 of browser_sessions)\n"
    )
    assert left(filled) == (1, 0, 1)
    again = filled("prune")
    assert (again.status, again.out) == (0, f"deleted 0 expired rows from {filled.path}\n")


def test_a_dry_run_deletes_nothing(filled: Db) -> None:
    """It prints the numbers as its result."""
    done = filled("prune", "--dry-run")
    assert (done.status, done.err) == (0, "")
    assert ["browser_sessions", "2"] in [line.split() for line in done.out.splitlines()]
    assert left(filled) == (3, 1, 1)


def test_old_audit_entries_are_deleted_with_an_age(filled: Db) -> None:
    """They are shown as a further table, and the remedy repeats the age."""
    entry = "INSERT INTO audit_logs (timestamp, event, user_id) VALUES (1, 'old', 'bob')"
    execute(filled.path, entry)
    old = "SELECT count(*) FROM audit_logs WHERE event = 'old'"
    done = filled("prune", "--audit-older-than", "52w", stdin=b"n\n")
    assert ["audit_logs", "1"] in [line.split() for line in done.err.splitlines()]
    assert f"db prune --audit-older-than 8736h -d {filled.path} --yes" in done.err
    assert rows(filled.path, old) == [(1,)]
    assert "1 of audit_logs" in filled("prune", "--audit-older-than", "52w", "--yes").out
    assert rows(filled.path, old) == [(0,)]


@pytest.mark.parametrize("age", ["30", "-1d", "", "1e9d"])
def test_an_age_that_is_none_is_wrong_usage(age: str, filled: Db) -> None:
    """Nothing is deleted, and the message has examples."""
    done = filled("prune", "--yes", "--audit-older-than", age)
    assert (done.status, "30d" in done.err) == (2, True)
    assert left(filled) == (3, 1, 1)


def test_ctrl_c_keeps_what_is_deleted(filled: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command exits with 130 and says so, and the same command deletes the rest."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OAuthSessions, "delete_expired", interrupt)
        done = filled("prune", "--yes")
    assert (done.status, done.out) == (130, "")
    assert "error: Interrupted. What was deleted stays so, and the rest is unchanged." in done.err
    assert left(filled) == (3, 0, 1)
    assert filled("prune", "--yes").status == 0
    assert left(filled) == (1, 0, 1)


def test_as_json(filled: Db) -> None:
    """The document has what was expired and what was deleted; a dry run only the former."""
    expired = {
        "login_flow_sessions": 1,
        "oauth_sessions": 0,
        "browser_sessions": 2,
        "mcp_tokens": 0,
        "mcp_grants": 0,
        "mcp_clients": 0,
    }
    document = {"database": str(filled.path), "expired": expired}
    assert json.loads(filled("prune", "--dry-run", "--json").out) == document
    assert json.loads(filled("prune", "--yes", "--json").out) == {**document, "deleted": expired}


@pytest.mark.parametrize(
    ("state", "code"), [("behind", "upgrade-pending"), ("missing", "bad-path"), ("newer", None)]
)
def test_a_database_that_is_not_at_head_is_refused(state: str, code: str | None, db: Db) -> None:
    """Nothing is migrated or created, because a server of another release may be running."""
    db.put(state)
    assert db.refused("prune", "--yes") == (code or "unknown-revision")
    assert db.path.exists() is (state != "missing")
