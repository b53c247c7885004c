"""All contact with Alembic: one command at a time, on the connection that is handed over."""

from __future__ import annotations

import re
import resource
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, StaticPool, create_engine

from nextcloud_mcp_server.authoring.lint.version_files import read_script
from nextcloud_mcp_server.migrate import alembic_commands
from nextcloud_mcp_server.schema.history import load_history
from tests.support.errors import refused
from tests.support.facts import REVISIONS
from tests.support.scripts import SCRIPTS, add_revision, sql_revision


@contextmanager
def connection() -> Iterator[Connection]:
    """A connection to an empty database, inside a transaction."""
    with closing(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)) as raw:
        engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
        with engine.connect() as made, made.begin():
            raw.execute("BEGIN")
            yield made


def recorded(made: Connection) -> list[str]:
    """The rows of the version table."""
    return [row[0] for row in made.exec_driver_sql("SELECT version_num FROM alembic_version")]


def test_every_revision_is_listed_for_people() -> None:
    """Oldest first, each with its parent, its day, its title and what a downgrade loses."""
    found = alembic_commands.listing(load_history())
    assert tuple(revision.id for revision in found) == load_history().revisions
    assert [revision.parent for revision in found] == [None, *load_history().revisions[:-1]]
    for revision in found:
        assert revision.title
        assert not revision.title.endswith(".")
        assert revision.loses
        assert revision.path.name.startswith(revision.date.replace("-", ""))
    assert found[1].title == "Add app passwords"
    assert found[1].loses == "the table app_passwords: every stored app password."


def test_a_stamp_is_the_only_row() -> None:
    """Whatever stood in the version table, one row stands there then; base leaves none."""
    with connection() as made:
        alembic_commands.stamp(made, load_history(), "003")
        made.exec_driver_sql("INSERT INTO alembic_version VALUES ('zzz'), ('001')")
        alembic_commands.stamp(made, load_history(), "005")
        assert recorded(made) == ["005"]
        alembic_commands.stamp(made, load_history(), "base")
        assert recorded(made) == []


def test_nothing_is_committed_by_alembic() -> None:
    """The transaction stays the caller's, over a stamp, an upgrade and a downgrade."""
    with connection() as made:
        alembic_commands.stamp(made, load_history(), "base")
        alembic_commands.upgrade(made, load_history(), "005")
        alembic_commands.downgrade(made, load_history(), "002")
        assert made.in_transaction()
        made.exec_driver_sql("ROLLBACK")
        assert made.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar() == 0
        made.exec_driver_sql("BEGIN")


def test_an_unknown_revision_is_a_named_error() -> None:
    """What Alembic refuses arrives as an error with a remedy."""
    with connection() as made:
        error = refused(lambda: alembic_commands.upgrade(made, load_history(), "999"))
    assert error.code == "migration-failed"
    assert "db history" in error.remedy


def test_two_commands_at_once_take_turns() -> None:
    """Alembic's module globals are never used by two at once, in however many threads."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with connection() as made:
                alembic_commands.upgrade(made, load_history(), "010")
                assert recorded(made) == ["010"]
        except BaseException as error:  # noqa: BLE001 - reported by the test
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_percent_sign_in_the_folder_is_a_character(tmp_path: Path) -> None:
    """ConfigParser would read it as an interpolation."""
    folder = tmp_path / "50%(here)s %20"
    folder.symlink_to(SCRIPTS)
    history = load_history(folder)
    assert [revision.id for revision in alembic_commands.listing(history)][
        : len(REVISIONS)
    ] == list(REVISIONS)


def test_deleted_tables_are_read_from_the_revisions(own_scripts: Path) -> None:
    """Only those of the steps that run are allowed, and none is by default."""
    body = sql_revision("DELETE FROM audit_logs")
    add_revision(own_scripts, f'DELETES_ROWS_FROM = ("audit_logs", "usage_events")\n\n\n{body}')
    history = load_history()
    assert alembic_commands.deleting(history, ("101",)) == {"audit_logs", "usage_events"}
    assert alembic_commands.deleting(history, history.revisions[:-1]) == frozenset()


def test_ids_of_this_project_begin_at_101(own_scripts: Path) -> None:
    """After 010 comes 101, then one more each time; 011 is never written."""
    assert alembic_commands.next_id(load_history()) == "101"
    add_revision(own_scripts, sql_revision())
    assert alembic_commands.next_id(load_history()) == "102"
    add_revision(own_scripts, sql_revision(), "999", "101")
    assert alembic_commands.next_id(load_history()) == "1000"


def test_a_new_migration_says_nothing_on_stdout(
    own_scripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The path is the answer; what Alembic would print is nobody's."""
    made = alembic_commands.create("add user preferences table", load_history())
    assert capsys.readouterr().out == ""
    assert made.parent == own_scripts / "versions"
    assert made.read_text("utf-8").startswith('"""add user preferences table')


@pytest.mark.parametrize("message", ["", " ", "!!", "\n"])
def test_a_migration_has_a_name(message: str, own_scripts: Path) -> None:
    """A message without a letter or a digit names no file."""
    assert refused(lambda: alembic_commands.create(message)).code == "bad-input"
    assert own_scripts.is_dir()


@given(st.text(st.characters(exclude_categories=())))
def test_any_message_names_a_file_or_none(message: str) -> None:
    """The description in a file's name is short, plain ASCII, and made of words."""
    slug = alembic_commands.slug_of(message)
    assert len(slug) <= 60
    assert re.fullmatch("([a-z0-9]+(_[a-z0-9]+)*)?", slug)
    assert alembic_commands.slug_of(slug) == slug
    if re.search("[a-zA-Z0-9]", message):
        assert slug


@pytest.mark.parametrize(
    ("message", "slug"),
    [
        ("Add café column", "add_cafe_column"),
        ("Größe", "grosse"),
        ("a—b 日本 c", "a_b_c"),
        ("②", "2"),
        ("日本", ""),
        ("ab " * 30, "_".join(["ab"] * 20)),
        ("a" * 70, "a" * 60),
    ],
)
def test_letters_lose_their_accents(message: str, slug: str) -> None:
    """What ASCII has no letter for is a gap, and a long description ends with a word."""
    assert alembic_commands.slug_of(message) == slug


def test_a_migration_keeps_the_letters_of_its_title(own_scripts: Path) -> None:
    """Only the name of the file is plain; signs that no editor shows are left out."""
    made = alembic_commands.create("Add café\0\udcff column")
    assert made.name.endswith("_101_add_cafe_column.py")
    assert made.read_text("utf-8").startswith('"""Add café column.\n')
    assert read_script(made).slug == "add_cafe_column"
    assert made.parent == own_scripts / "versions"


def test_a_migration_that_cannot_be_written_whole_is_taken_away(own_scripts: Path) -> None:
    """Half a file would count as a revision."""
    before = sorted((own_scripts / "versions").iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        error = refused(lambda: alembic_commands.create("add a table"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.code == "io-error"
    assert sorted((own_scripts / "versions").glob("*.py")) == [p for p in before if p.is_file()]
    assert load_history().head == "010"


def test_an_installed_package_has_no_sources_to_add_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside a checkout no file is written into the installation."""
    monkeypatch.setattr(
        "nextcloud_mcp_server.schema.history.locate_scripts", lambda: tmp_path / "_alembic"
    )
    assert refused(lambda: alembic_commands.create("anything")).code == "not-a-checkout"
