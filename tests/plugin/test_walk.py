"""``migration_walk`` over the whole history, and over bad revisions."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.testing.changes import Changes, RowChanges
from nextcloud_mcp_server.testing.contents import read_catalogue
from nextcloud_mcp_server.testing.walk import StartWalk, Step
from tests.migrations.rows import declared, seed
from tests.support.revisions import ALL, HEAD
from tests.support.scripts import add_revision
from tests.support.shapes import at

GRANT = {"user_id": "alice", "encrypted_token": b"sealed", "created_at": 1, "updated_at": 2}
CLIENT = {
    "client_id": "c", "encrypted_client_secret": b"s", "client_id_issued_at": 1,
    "client_secret_expires_at": 2, "redirect_uris": "[]", "created_at": 1, "updated_at": 1,
}  # fmt: skip
FLOW = {"user_id": "alice", "encrypted_password": b"s", "created_at": 1, "updated_at": 1}


def test_a_round_trip_walks_every_revision_with_rows_in_every_table(
    migration_walk: StartWalk,
) -> None:
    """Up, down and up: three times every revision, each with the author's rows compared."""
    scopes = seed("003", "portable", only=frozenset(declared()["004"].before))
    rows = {**seed("009", "portable"), **seed("101", "portable"), **scopes}
    seen: list[str] = []
    changes = {revision: file.changes for revision, file in declared().items()}
    walk = migration_walk(rows=rows, changes=changes)

    steps = walk.round_trip(each=lambda step: seen.append(str(step)))

    up = [f"{a} -> {b}" for a, b in zip(("base", *ALL[:-1]), ALL, strict=True)]
    down = [" -> ".join(reversed(step.split(" -> "))) for step in reversed(up)]
    assert seen == [*up, *down, *up]
    assert walk.steps == steps
    assert walk.revision == HEAD
    back = next(s for s in steps if (s.revision, s.up) == ("101", False))
    assert back.rows == {name: len(rows[name]) for name in back.rows}
    assert {"refresh_tokens", "app_passwords", "document_paths"} <= back.rows.keys()


def test_a_walk_ends_where_a_start_does(migration_walk: StartWalk, token_db: Path) -> None:
    """One by one and without a start's safeguards, the revisions make what a start makes."""
    walk = migration_walk()
    walk.up()
    with closing(sqlite3.connect(walk.database)) as one, closing(sqlite3.connect(token_db)) as two:
        assert read_catalogue(one.execute) == read_catalogue(two.execute)


def test_a_database_that_is_given_is_copied_and_walks_from_where_it_is(
    migration_walk: StartWalk, tmp_path: Path
) -> None:
    """An author's own old file, from before migrations too, goes up, back and up, unchanged."""
    old = tmp_path / "old.db"
    at("006", "portable").unversioned().write(old)
    before = old.read_bytes()

    walk = migration_walk(old)
    began, rows = walk.revision, walk.rows("refresh_tokens")
    steps = walk.round_trip()

    assert rows
    assert walk.rows("refresh_tokens") == rows
    assert (steps[0].before, walk.revision) == (began, HEAD)
    assert "base" not in {step.after for step in steps}
    assert old.read_bytes() == before


def test_a_file_that_no_start_would_touch_is_refused(
    migration_walk: StartWalk, tmp_path: Path
) -> None:
    """Somebody else's database is refused as a start refuses it."""
    foreign = tmp_path / "foreign.db"
    with closing(sqlite3.connect(foreign)) as connection, connection:
        connection.execute("CREATE TABLE notes (body TEXT)")
    with pytest.raises(TokenStorageError) as caught:
        migration_walk(foreign)
    assert caught.value.code == "foreign"


def test_rows_join_at_the_first_revision_that_has_a_place_for_them(
    migration_walk: StartWalk,
) -> None:
    """A row waits for its table and its columns, and comes back with a table that was dropped."""
    walk = migration_walk(rows={"app_passwords": [FLOW]})
    walk.up("001")
    assert walk.rows("app_passwords") == []
    walk.up("002")
    assert len(walk.rows("app_passwords")) == 1
    walk.down("001")
    assert walk.rows("app_passwords") == []
    walk.up()
    assert len(walk.rows("app_passwords")) == 1


def test_a_row_that_never_finds_a_place_is_no_silent_success(migration_walk: StartWalk) -> None:
    """At head, a row for a table or a column that no revision has fails the walk."""
    walk = migration_walk(rows={"refresh_tokens": [{**GRANT, "colour": "red"}]})
    with pytest.raises(AssertionError, match="no revision has a table refresh_tokens with"):
        walk.up()


def test_a_row_that_the_table_refuses_is_told_by_its_revision(migration_walk: StartWalk) -> None:
    """A row without a required column fails with the revision and what SQLite says."""
    walk = migration_walk(rows={"refresh_tokens": [{"user_id": "alice"}]})
    with pytest.raises(AssertionError, match=r"revision 001.*refresh_tokens does not take.*NULL"):
        walk.up()


def test_an_unknown_revision_is_refused(migration_walk: StartWalk) -> None:
    """To walk to a revision that there is not raises the program's own error."""
    walk = migration_walk()
    for go in (walk.up, walk.down):
        with pytest.raises(TokenStorageError) as caught:
            go("999")
        assert caught.value.code == "unknown-revision"


def _does(*statements: str) -> str:
    return "\n".join(f"    op.execute({statement!r})" for statement in statements) or "    pass"


_UP = "revision 101, upgrade (010 -> 101),"
_DOWN = "revision 101, downgrade (101 -> 010),"

#: What a bad revision does up and down, and what the walk says.
BAD = {
    "loses rows": (
        _does("DELETE FROM refresh_tokens"),
        _does(),
        f"{_UP} loses 1 of 1 rows of refresh_tokens, among them {{'user_id': 'alice'",
    ),
    "changes a value": (
        _does("UPDATE refresh_tokens SET user_id = upper(user_id)"),
        _does(),
        "changes user_id of refresh_tokens from 'alice' to 'ALICE' (if that is intended, declare ",
    ),
    "changes a type only": (
        _does("UPDATE refresh_tokens SET encrypted_token = CAST(encrypted_token AS TEXT)"),
        _does(),
        f"{_UP} changes encrypted_token of refresh_tokens from b'sealed' to 'sealed'",
    ),
    "adds a row": (
        _does("INSERT INTO audit_logs (timestamp, event, user_id) VALUES (1, 'login', 'eve')"),
        _does(),
        f"{_UP} adds rows to audit_logs: 1",
    ),
    "loses rows on the way back": (
        _does(),
        _does("DELETE FROM oauth_clients"),
        f"{_DOWN} loses 1 of 1 rows of oauth_clients, among them",
    ),
    "leaves a trace": (
        _does("CREATE TABLE extra (id INTEGER PRIMARY KEY)"),
        _does(),
        f"{_DOWN} does not restore 010 as it was: extra",
    ),
    "drops an index": (
        _does(),
        _does("DROP INDEX idx_audit_user_timestamp"),
        f"{_DOWN} leaves a database that lacks index idx_audit_user_timestamp",
    ),
    "fails": (
        _does("UPDATE nowhere SET x = 1"),
        _does(),
        "Revision 101 fails in an empty database: no such table: nowhere",
    ),
    "fails on the way back": (
        _does(),
        _does("UPDATE nowhere SET x = 1"),
        f"{_DOWN} fails: no such table: nowhere",
    ),
    "points at nothing": (
        _does(
            "CREATE TABLE child (user_id TEXT REFERENCES refresh_tokens(user_id))",
            "INSERT INTO child VALUES ('nobody')",
        ),
        _does("DROP TABLE child"),
        f"{_UP} leaves 1 dangling reference: ",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_revision_is_told_by_its_number(
    migration_walk: StartWalk, own_scripts: Path, what: str
) -> None:
    """Whatever a revision does wrong, up or down, the failure names it and says what it is."""
    up, down, said = BAD[what]
    body = f"def upgrade() -> None:\n{up}\n\n\ndef downgrade() -> None:\n{down}\n"
    add_revision(own_scripts, body)
    with pytest.raises((AssertionError, TokenStorageError)) as caught:
        migration_walk(rows={"refresh_tokens": [GRANT], "oauth_clients": [CLIENT]}).round_trip()
    assert said in str(caught.value)


def _changed(up: RowChanges | None = None, down: RowChanges | None = None) -> dict[str, Changes]:
    return {"101": Changes(up or {}, down or {})}


_RENAMED = {"refresh_tokens": [({"user_id": "alice"}, {"user_id": "ALICE"})]}
_RESTORED = {"refresh_tokens": [({"user_id": "ALICE"}, {"user_id": "alice"})]}
_DELETED = {"refresh_tokens": [({"user_id": "alice"}, None)]}
_DEFAULTS = {**GRANT, "flow_type": "hybrid", "token_audience": "nextcloud"}
_ADDED = {"refresh_tokens": [(None, {**_DEFAULTS, "user_id": "eve"})]}
_OTHER = {"refresh_tokens": [({"user_id": "alice"}, {"user_id": "bob"})]}
_NOBODY = {"refresh_tokens": [*_RENAMED["refresh_tokens"], ({"user_id": "bob"}, {"user_id": "B"})]}
_FILLED = {"refresh_tokens": [({"user_id": "alice"}, {"kind": "owner"}), ({}, {"kind": "guest"})]}

_UPPER = "UPDATE refresh_tokens SET user_id = 'ALICE' WHERE user_id = 'alice'"
_LOWER = "UPDATE refresh_tokens SET user_id = 'alice' WHERE user_id = 'ALICE'"
_DELETE = "DELETE FROM refresh_tokens WHERE user_id = 'alice'"
_INSERT = (
    "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at) "
    "VALUES ('eve', x'7365616c6564', 1, 2)"
)
_FILL = (
    "ALTER TABLE refresh_tokens ADD COLUMN kind TEXT DEFAULT 'guest'",
    "UPDATE refresh_tokens SET kind = 'owner' WHERE user_id = 'alice'",
)
_UNFILL = ("ALTER TABLE refresh_tokens DROP COLUMN kind",)


def _revision(up: tuple[str, ...], down: tuple[str, ...] = ()) -> str:
    return f"def upgrade() -> None:\n{_does(*up)}\n\n\ndef downgrade() -> None:\n{_does(*down)}\n"


#: What a revision does up and down, and what it declares.
INTENDED = {
    "values": ((_UPPER,), (_LOWER,), _changed(_RENAMED, _RESTORED)),
    "deleted rows": ((_DELETE,), (_INSERT.replace("eve", "alice"),), _changed(_DELETED, {
        "refresh_tokens": [(None, _DEFAULTS)]})),
    "added rows": ((_INSERT,), (_DELETE.replace("alice", "eve"),), _changed(_ADDED, {
        "refresh_tokens": [({"user_id": "eve"}, None)]})),
    "a new column": (_FILL, _UNFILL, _changed(_FILLED)),
}  # fmt: skip


@pytest.mark.parametrize("what", INTENDED)
def test_declared_changes_are_expected(
    migration_walk: StartWalk, own_scripts: Path, what: str
) -> None:
    """A revision may change exactly the rows that are declared, in either direction."""
    up, down, changes = INTENDED[what]
    add_revision(own_scripts, _revision(up, down))
    rows = {"refresh_tokens": [GRANT, {**GRANT, "user_id": "bob"}]}
    walk = migration_walk(rows=rows, changes=changes)
    walk.round_trip()
    assert [text for text in walk.untested if "101" in text] == []


#: What a revision does, what it declares, and what is reported.
UNINTENDED = {
    "another value": (_UPPER, _OTHER, f"{_UP} changes user_id of refresh_tokens from 'bob' to 'A"),
    "not at all": ("SELECT 1", _RENAMED, f"{_UP} changes user_id of refresh_tokens from 'ALICE' "),
    "another row too": (
        "UPDATE refresh_tokens SET user_id = 'ALICE', created_at = 9",
        _RENAMED,
        f"{_UP} changes created_at of refresh_tokens from 1 to 9",
    ),
    "more rows": ("DELETE FROM refresh_tokens", _RENAMED, f"{_UP} loses 1 of 1 rows"),
    "no such row": (
        _UPPER,
        _NOBODY,
        "revision 101, upgrade: no row of refresh_tokens goes through the declared change ({'user",
    ),
}


@pytest.mark.parametrize("what", UNINTENDED)
def test_other_changes_than_declared_fail(
    migration_walk: StartWalk, own_scripts: Path, what: str
) -> None:
    """A declared change must happen, to a row, and nothing else may happen."""
    statement, declares, reported = UNINTENDED[what]
    add_revision(own_scripts, _revision((statement,)))
    walk = migration_walk(rows={"refresh_tokens": [GRANT]}, changes=_changed(declares))
    with pytest.raises(AssertionError) as caught:
        walk.up()
    assert reported in str(caught.value)


def test_changes_of_an_unknown_revision_are_refused(migration_walk: StartWalk) -> None:
    """Changes that are declared for a revision that does not exist raise the program's error."""
    with pytest.raises(TokenStorageError) as caught:
        migration_walk(changes={"999": Changes()})
    assert caught.value.code == "unknown-revision"


def test_statements_that_change_no_row_are_listed(
    migration_walk: StartWalk, own_scripts: Path
) -> None:
    """An UPDATE or DELETE is untested until it has changed a row of the walk."""
    untested = "UPDATE refresh_tokens\n SET user_id = 'x' WHERE user_id = 'nobody'"
    add_revision(own_scripts, _revision((untested, _UPPER), (_LOWER, _DELETE.replace("al", "x"))))
    walk = migration_walk(rows={"refresh_tokens": [GRANT]}, changes=_changed(_RENAMED, _RESTORED))
    walk.up()
    reported = f"revision 101, upgrade: {' '.join(untested.split())}"
    assert walk.untested[-1] == reported
    assert {text[:21] for text in walk.untested[:-1]} == {"revision 004, upgrade"}
    walk.round_trip()
    assert [text for text in walk.untested if "101" in text] == [
        reported,
        f"revision 101, downgrade: {_DELETE.replace('al', 'x')}",
    ]


def test_a_released_revision_that_changes_values(migration_walk: StartWalk) -> None:
    """004 rewrites scopes: it fails if that is not declared, and passes if it is."""
    rows = {"app_passwords": [{**FLOW, "scopes": '["notes:read"]'}]}
    with pytest.raises(AssertionError, match=r"revision 004.*changes scopes of app_passwords"):
        migration_walk(rows=rows).up()

    change = ({"scopes": '["notes:read"]'}, {"scopes": '["notes.read"]'})
    walk = migration_walk(rows=rows, changes={"004": Changes({"app_passwords": [change]})})
    walk.up()
    assert walk.rows("app_passwords")[0]["scopes"] == '["notes.read"]'
    assert [text.partition(" SET ")[0] for text in walk.untested] == [
        "revision 004, upgrade: UPDATE login_flow_sessions"
    ]


def test_a_step_reads_like_people_write_it() -> None:
    """A step names the revision that ran, whichever way it went."""
    down = Step("006", "005", up=False, rows={})
    assert (str(down), down.revision) == ("006 -> 005", "006")
    assert Step("005", "006", up=True, rows={}).revision == "006"
