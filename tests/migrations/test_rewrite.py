"""``rewrite``: change values in Python, page by page."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from alembic import command
from alembic.util import CommandError

from nextcloud_mcp_server import migrations, progress
from tests.migrations import facts
from tests.migrations.database import Database, configuration
from tests.migrations.rows import seed
from tests.support.child import run_python
from tests.support.scripts import add_revision, used

if TYPE_CHECKING:
    import sqlalchemy as sa

#: Adds a version to profiles; reads encrypted_token, and writes scopes.
PROFILES: Final = """
import json


def versioned(row):
    if row["user_profile"] is None or row["user_profile"] == "leave":
        return None
    return {"user_profile": "v2 " + row["user_profile"], "scopes": row["encrypted_token"].hex()}


def upgrade():
    op.get_context().opts["guards"].rewrite(
        "refresh_tokens",
        versioned,
        columns=["user_profile", "encrypted_token", "scopes"],
        where="user_profile NOT LIKE 'v2 %' AND user_profile <> ':a %s'",
        size=7,
    )


def downgrade():
    pass
"""

INSERT: Final = """
INSERT INTO {} (user_id, encrypted_token, created_at, updated_at, user_profile)
VALUES ({}, '', 1, 1, '{}')
"""


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 30])
async def test_every_row_is_rewritten_once(database: Database, scripts: Path, count: int) -> None:
    """Each row is rewritten once, for any number of rows per page."""
    await database.upgrade("101")
    names = [*(f"plain {n}" for n in range(count)), "leave", ":a %s", "v2 done"]
    rows = seed("101", database.lineage, only=frozenset({"refresh_tokens"}), before=False)[
        "refresh_tokens"
    ]
    await database.insert(
        {
            "refresh_tokens": [
                rows[0] | {"user_id": f"u{n:03}", "user_profile": text}
                for n, text in enumerate(names)
            ]
        }
    )
    database.revise(scripts, PROFILES)
    await database.upgrade()
    found = await database.query("SELECT user_profile, scopes FROM refresh_tokens ORDER BY user_id")
    assert [profile for profile, _ in found] == [
        *(f"v2 {name}" for name in names[:count]),
        *names[count:],
    ]
    assert {scopes for _, scopes in found[:count]} <= {rows[0]["encrypted_token"].hex()}
    assert {scopes for _, scopes in found[count:]} == {rows[0]["scopes"]}


async def test_a_second_run_rewrites_nothing(database: Database, scripts: Path) -> None:
    """A second run changes nothing."""
    await database.upgrade("101")
    await database.insert(seed("101", database.lineage, before=False))
    database.revise(scripts, PROFILES)
    await database.upgrade()
    columns = {"refresh_tokens": ["user_id", "user_profile", "scopes"]}
    rows = await database.rows(columns)
    await database.run(("stamp", "101"), ("upgrade", "102"))
    assert await database.rows(columns) == rows
    assert repr(rows).count("v2 ") == 2


async def test_a_key_of_several_columns_is_followed(database: Database, scripts: Path) -> None:
    """A page may end within a group of rows with the same first key column."""
    await database.upgrade("101")
    jobs = [
        {"user_id": f"u{n // 9}", "doc_id": f"d{n // 3 % 3}", "doc_type": f"t{n % 3}", "etag": "e"}
        for n in range(40)
    ]
    await database.insert(
        {"batch_ocr_jobs": [j | {"job_id": "j", "submitted_at": 1} for j in jobs]}
    )
    database.revise(
        scripts,
        """
def upgrade():
    op.get_context().opts["guards"].rewrite(
        "batch_ocr_jobs", lambda row: {"job_id": "k"}, columns=["job_id"],
        where="job_id = 'j'", size=4,
    )
""",
    )
    await database.upgrade()
    assert await database.query("SELECT count(*) FROM batch_ocr_jobs WHERE job_id = 'k'") == [(40,)]


async def test_rows_with_null_keys_are_rewritten(sqlite: Database, scripts: Path) -> None:
    """With the raw types a key may be NULL: each row is rewritten."""
    await sqlite.execute(*facts.raw_statements("006"))
    await sqlite.upgrade("101")
    await sqlite.execute(*(INSERT.format("refresh_tokens", "NULL", n) for n in range(20)))
    sqlite.revise(scripts, PROFILES.replace(".hex()", ""))
    await sqlite.upgrade()
    found = await sqlite.query("SELECT user_profile FROM refresh_tokens ORDER BY rowid")
    assert found == [(f"v2 {n}",) for n in range(20)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            'lambda row: {"note": row["note"] + "!"}, columns=["note"], where="note IS NOT NULL"',
            "2 of 2 rewritten rows of notes still match note IS NOT NULL",
        ),
        (
            'lambda row: {"other": 1}, columns=["note"], where="note IS NOT NULL"',
            "other of notes is not in columns",
        ),
    ],
)
async def test_a_rewrite_that_is_not_idempotent_is_refused(
    database: Database, scripts: Path, call: str, message: str
) -> None:
    """After an error nothing has changed."""
    await database.upgrade("101")
    await database.execute(
        "CREATE TABLE notes (id INTEGER PRIMARY KEY, note TEXT)",
        "INSERT INTO notes VALUES (1, 'a'), (2, 'b'), (3, NULL)",
    )
    database.call_guard(scripts, f'rewrite("notes", {call})')
    with pytest.raises(CommandError, match=message):
        await database.upgrade()
    assert await database.query("SELECT note FROM notes ORDER BY id") == [("a",), ("b",), (None,)]


@pytest.mark.parametrize("columns", ["note TEXT", "rowid TEXT, _rowid_ TEXT, oid TEXT, note TEXT"])
async def test_a_table_needs_a_key(database: Database, scripts: Path, columns: str) -> None:
    """A table without a key (PostgreSQL) or a usable rowid (SQLite) is refused."""
    await database.upgrade("101")
    await database.execute(f"CREATE TABLE notes ({columns})")
    database.call_guard(
        scripts, 'rewrite("notes", lambda row: None, columns=["note"], where="note IS NULL")'
    )
    if database.is_sqlite and "oid" not in columns:
        await database.upgrade()
    else:
        with pytest.raises(
            CommandError, match=r"notes has no (primary key|usable rowid) for rewrite"
        ):
            await database.upgrade()


async def test_offline_it_is_refused(database: Database, scripts: Path) -> None:
    """--sql refuses a rewrite."""
    database.revise(scripts, PROFILES)
    with pytest.raises(CommandError, match=r"rows of refresh_tokens .* Run this revision"):
        await database.offline("upgrade", "101:102")


async def test_the_progress_is_reported(sqlite: Database, scripts: Path) -> None:
    """After each page the number of rows is reported."""
    await sqlite.upgrade("101")
    await sqlite.execute(*(INSERT.format("refresh_tokens", n, n) for n in range(10)))
    sqlite.revise(scripts, PROFILES.replace(".hex()", ""))
    updates: list[tuple[Any, ...]] = []

    def go(connection: sa.Connection) -> None:
        config = configuration(scripts)
        config.attributes["connection"] = connection
        config.attributes["say"] = lambda *update: updates.append(update)
        command.upgrade(config, "head")

    async with sqlite.engine.begin() as connection:
        await connection.run_sync(go)
    assert updates == [
        ("rewriting refresh_tokens", 7, 10, "rows"),
        ("rewriting refresh_tokens", 10, 10, "rows"),
    ]


SLOW: Final = (
    PROFILES.replace(".hex()", "")
    .replace("import json", "import time")
    .replace("def versioned(row):", "def versioned(row):\n    time.sleep(0.05)")
)


def test_an_upgrade_logs_the_progress(
    scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The program logs the progress of a rewrite."""
    path = tmp_path / "tokens.db"
    migrations.upgrade_database(path, "101")
    with closing(sqlite3.connect(path)) as connection, connection:
        for n in range(30):
            connection.execute(INSERT.format("refresh_tokens", n, n))
    add_revision(scripts, SLOW, "102", "101")
    monkeypatch.setattr(progress, "INTERVAL", 0.1)
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.0)
    with used(scripts), caplog.at_level("INFO"):
        migrations.upgrade_database(path)
    assert f"{path}: rewriting refresh_tokens (" in caplog.text


#: Upgrades a file with this many rows from 101, and prints the peak of its memory in KiB.
MEASURED: Final = """
import sqlite3, sys
from pathlib import Path
from nextcloud_mcp_server import migrations
from tests.support.child import run_python
from tests.support.scripts import used
scripts, path, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
migrations.upgrade_database(path, "101")
connection = sqlite3.connect(path)
connection.execute(
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
    "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at, user_profile) "
    "SELECT 'user' || i, zeroblob(50), 1, 1, 'name ' || i FROM n", (count,))
connection.commit()
connection.close()
with used(scripts):
    migrations.upgrade_database(path)
# Not ru_maxrss, which a process inherits from the one that starts it.
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""

BOTH: Final = (
    PROFILES.replace("size=7", "size=1000")
    + """

def recreated():
    op.get_context().opts["guards"].recreate_table(
        "refresh_tokens",
        sa.Column("user_id", sa.Text(), primary_key=True),
        sa.Column("encrypted_token", sa.LargeBinary(), nullable=False),
        sa.Column("user_profile", sa.String(200)),
        sa.Column("scopes", sa.Text(), server_default="none"),
    )


first = upgrade


def upgrade():
    first()
    recreated()
"""
)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak")
def test_memory_does_not_grow_with_the_rows(scripts: Path, tmp_path: Path) -> None:
    """200,000 rows are rewritten, and their table recreated, in the memory of 1,000."""
    add_revision(scripts, f"import sqlalchemy as sa\n{BOTH}", "102", "101")
    peaks = {}
    for count in (1_000, 200_000):
        peaks[count] = int(run_python(MEASURED, scripts, tmp_path / f"{count}.db", count))
        with closing(sqlite3.connect(tmp_path / f"{count}.db")) as connection:
            (rows,) = connection.execute(
                "SELECT count(*) FROM refresh_tokens WHERE user_profile LIKE 'v2 name %'"
            ).fetchone()
        assert rows == count
    assert peaks[200_000] - peaks[1_000] < 12 * 1024, peaks
