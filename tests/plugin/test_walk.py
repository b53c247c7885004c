"""``migration_walk`` over the whole history, and over bad revisions."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.testing.changes import Changes, RowChange
from nextcloud_mcp_server.testing.contents import read_catalogue
from nextcloud_mcp_server.testing.walk import StartWalk
from tests.cli.places import execute
from tests.migrations.rows import declared, seed
from tests.support.errors import refused
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
    changed: dict[str, list[Mapping[str, Any]]] = {}
    for file in declared().values():
        for table, members in file.before.items():
            changed.setdefault(table, []).extend(members)
    rows: dict[str, Sequence[Mapping[str, Any]]] = {
        **seed("009", "portable", before=False),
        **seed("101", "portable", before=False),
        **changed,
    }
    seen: list[str] = []
    # The rows that 103 deletes on the way down would not be there for the way up.
    changes = {name: file.changes for name, file in declared().items() if name != "103"}
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


@pytest.mark.parametrize("revision", ["002", "006"])
def test_a_file_of_a_former_release_makes_the_round_trip(
    revision: str, migration_walk: StartWalk, tmp_path: Path
) -> None:
    """A table whose shape no revision makes, and that one drops, comes back in its own."""
    old = tmp_path / "old.db"
    at(revision, "raw").write(old)
    walk = migration_walk(old)
    walk.round_trip()
    assert walk.revision == HEAD
    missing = refused(lambda: migration_walk(tmp_path / "missing.db"))
    assert "There is no database at" in missing.message


def test_a_file_that_no_start_would_touch_is_refused(
    migration_walk: StartWalk, tmp_path: Path
) -> None:
    """A database of another program is refused as a start refuses it."""
    foreign = tmp_path / "foreign.db"
    execute(foreign, "CREATE TABLE notes (body TEXT)")
    assert refused(lambda: migration_walk(foreign)).code == "foreign"


def test_rows_are_inserted_at_the_first_revision_that_has_their_columns(
    migration_walk: StartWalk,
) -> None:
    """A row waits for its table and columns, and returns with a table that was dropped."""
    walk = migration_walk(rows={"app_passwords": [FLOW]})
    walk.up("001")
    assert walk.rows("app_passwords") == []
    walk.up("002")
    assert len(walk.rows("app_passwords")) == 1
    walk.down("001")
    assert walk.rows("app_passwords") == []
    walk.up()
    assert len(walk.rows("app_passwords")) == 1


def test_a_row_without_a_table_fails_the_walk(migration_walk: StartWalk) -> None:
    """At head, a row for a table or a column that no revision has fails the walk."""
    walk = migration_walk(rows={"refresh_tokens": [{**GRANT, "colour": "red"}]})
    with pytest.raises(AssertionError, match="no revision has a table refresh_tokens with"):
        walk.up()


def test_a_row_that_the_table_refuses_fails_the_walk(migration_walk: StartWalk) -> None:
    """A row without a required column fails with the revision and SQLite's error."""
    walk = migration_walk(rows={"refresh_tokens": [{"user_id": "alice"}]})
    with pytest.raises(AssertionError, match=r"revision 001.*refresh_tokens does not take.*NULL"):
        walk.up()


def test_an_unknown_revision_is_refused(migration_walk: StartWalk) -> None:
    """A walk to an unknown revision, and changes of one, raise the program's own error."""
    walk = migration_walk()
    for call in (
        lambda: walk.up("999"),
        lambda: walk.down("999"),
        lambda: migration_walk(changes={"999": Changes()}),
    ):
        assert refused(call).code == "unknown-revision"


def _revision(up: Sequence[str], down: Sequence[str] = ()) -> str:
    return "".join(
        f"def {name}() -> None:\n    pass\n"
        + "".join(f"    op.execute({statement!r})\n" for statement in statements)
        for name, statements in (("upgrade", up), ("downgrade", down))
    )


_UP = "revision 101, upgrade (010 -> 101),"
_DOWN = "revision 101, downgrade (101 -> 010),"

_UPPER = "UPDATE refresh_tokens SET user_id = 'ALICE' WHERE user_id = 'alice'"
_LOWER = "UPDATE refresh_tokens SET user_id = 'alice' WHERE user_id = 'ALICE'"
_DELETE = "DELETE FROM refresh_tokens WHERE user_id = 'alice'"
_INSERT = (
    "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at) "
    "VALUES ('alice', x'7365616c6564', 1, 2)"
)
_CHILD = "CREATE TABLE child (user_id TEXT REFERENCES refresh_tokens(user_id))"
_TYPE = "UPDATE refresh_tokens SET encrypted_token = CAST(encrypted_token AS TEXT)"
_LOG = "INSERT INTO audit_logs (timestamp, event, user_id) VALUES (1, 'login', 'eve')"

_RENAMED: RowChange = ({"user_id": "alice"}, {"user_id": "ALICE"})
_RESTORED: RowChange = ({"user_id": "ALICE"}, {"user_id": "alice"})
_BOB: RowChange = ({"user_id": "bob"}, {"user_id": "BOB"})

#: What a bad revision does up and down, what its upgrade declares, and what is reported.
BAD: dict[str, tuple[list[str], list[str], list[RowChange], str]] = {
    "loses rows": (["DELETE FROM refresh_tokens"], [], [],
        f"{_UP} loses 1 of 1 rows of refresh_tokens, among them {{'user_id': 'alice'"),
    "changes a value": ([_UPPER], [], [],
        "changes user_id of refresh_tokens from 'alice' to 'ALICE' (if that is intended, declare "),
    "changes a type only": ([_TYPE], [], [],
        f"{_UP} changes encrypted_token of refresh_tokens from b'sealed' to 'sealed'"),
    "adds a row": ([_LOG], [], [], f"{_UP} adds rows to audit_logs: 1"),
    "loses rows on the way back": ([], ["DELETE FROM oauth_clients"], [],
        f"{_DOWN} loses 1 of 1 rows of oauth_clients, among them"),
    "leaves a trace": (["CREATE TABLE extra (id INTEGER PRIMARY KEY)"], [], [],
        f"{_DOWN} does not restore 010 as it was: extra"),
    "drops an index": ([], ["DROP INDEX idx_audit_user_timestamp"], [],
        f"{_DOWN} leaves a database that lacks index idx_audit_user_timestamp"),
    "fails": (["UPDATE nowhere SET x = 1"], [], [],
        "Revision 101 fails in an empty database: no such table: nowhere"),
    "fails on the way back": ([], ["UPDATE nowhere SET x = 1"], [],
        f"{_DOWN} fails: no such table: nowhere"),
    "leaves a row that refers to nothing": (
        [_CHILD, "INSERT INTO child VALUES ('nobody')"], ["DROP TABLE child"], [],
        f"{_UP} leaves 1 dangling reference: "),
    "changes a row to another value": ([_UPPER], [], [({"user_id": "alice"}, {"user_id": "bob"})],
        f"{_UP} changes user_id of refresh_tokens from 'bob' to 'ALICE'"),
    "does not change a declared row": ([], [], [_RENAMED],
        f"{_UP} changes user_id of refresh_tokens from 'ALICE' to 'alice'"),
    "changes another column too": ([_UPPER.replace(" W", ", created_at = 9 W")], [], [_RENAMED],
        f"{_UP} changes created_at of refresh_tokens from 1 to 9"),
    "deletes a declared row": ([_DELETE], [], [_RENAMED], f"{_UP} loses 1 of 1 rows of refresh"),
    "declares a row that is missing": ([_UPPER], [_LOWER], [_RENAMED, _BOB],
        "101, upgrade: no row of refresh_tokens goes through the declared change ({'user_id': 'b"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_revision_is_named(migration_walk: StartWalk, own_scripts: Path, what: str) -> None:
    """If a revision does something wrong, up or down, the failure names it and the problem."""
    up, down, declared, reported = BAD[what]
    add_revision(own_scripts, _revision(up, down))
    changes = Changes({"refresh_tokens": declared}, {"refresh_tokens": [_RESTORED]})
    rows = {"refresh_tokens": [GRANT], "oauth_clients": [CLIENT]}
    with pytest.raises((AssertionError, TokenStorageError)) as caught:
        migration_walk(rows=rows, changes={"101": changes} if declared else None).round_trip()
    assert reported in str(caught.value)


_ALICE = {**GRANT, "flow_type": "hybrid", "token_audience": "nextcloud"}
_FILL = [
    "ALTER TABLE refresh_tokens ADD COLUMN kind TEXT DEFAULT 'guest'",
    "UPDATE refresh_tokens SET kind = 'owner' WHERE user_id = 'alice'",
]

#: What a revision does up and down, and what it declares for each.
INTENDED: dict[str, tuple[list[str], list[str], list[RowChange], list[RowChange]]] = {
    "changes values": ([_UPPER], [_LOWER], [_RENAMED], [_RESTORED]),
    "deletes and adds a row": (
        [_DELETE], [_INSERT], [({"user_id": "alice"}, None)], [(None, _ALICE)]),
    "fills a new column": (
        _FILL, ["ALTER TABLE refresh_tokens DROP COLUMN kind"],
        [({"user_id": "alice"}, {"kind": "owner"}), ({}, {"kind": "guest"})], []),
}  # fmt: skip


@pytest.mark.parametrize("what", INTENDED)
def test_declared_changes_pass(migration_walk: StartWalk, own_scripts: Path, what: str) -> None:
    """A revision may change exactly the rows that are declared, in either direction."""
    up, down, upgrade, downgrade = INTENDED[what]
    add_revision(own_scripts, _revision(up, down))
    rows = {"refresh_tokens": [GRANT, {**GRANT, "user_id": "bob"}]}
    changes = Changes({"refresh_tokens": upgrade}, {"refresh_tokens": downgrade})
    walk = migration_walk(rows=rows, changes={"101": changes})
    walk.round_trip()
    assert [text for text in walk.untested if "101" in text] == []


def test_statements_that_change_no_row_are_listed(
    migration_walk: StartWalk, own_scripts: Path
) -> None:
    """An UPDATE or DELETE is untested until it has changed a row of the walk."""
    nobody = "UPDATE refresh_tokens\n SET user_id = 'x' WHERE user_id = 'nobody'"
    with_comment = "-- why\n/* how */ WITH one AS (SELECT 1) DELETE FROM audit_logs WHERE 0"
    others = [
        with_comment,
        "CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "DELETE FROM sqlite_sequence WHERE 0",
        "DROP TABLE counted",
    ]
    body = _revision([nobody, _UPPER, *others], [_LOWER, f"{_DELETE} AND 0"])
    add_revision(own_scripts, body)
    changes = Changes({"refresh_tokens": [_RENAMED]}, {"refresh_tokens": [_RESTORED]})
    walk = migration_walk(rows={"refresh_tokens": [GRANT]}, changes={"101": changes})
    walk.round_trip()
    assert [text for text in walk.untested if "101" in text] == [
        f"revision 101, upgrade: {' '.join(nobody.split())}",
        f"revision 101, upgrade: {' '.join(with_comment.split())}",
        f"revision 101, downgrade: {_DELETE} AND 0",
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
    [untested] = [text for text in walk.untested if text.startswith("revision 004")]
    assert untested.startswith("revision 004, upgrade: UPDATE login_flow_sessions SET ")
