"""Whatever a database is called, and however many names it has, it is one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite import lock
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate.plan import Action
from tests.support.by_path import prepare
from tests.support.errors import refused
from tests.support.files import names
from tests.support.shapes import at


def test_relative_paths_are_used_from_here(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path without a folder names a file in this one."""
    monkeypatch.chdir(path.parent)
    prepare(Path("tokens.db"))
    assert {"tokens.db", "tokens.db.lock"} <= names(path.parent)
    assert prepare(Path("../data/tokens.db")).action is Action.NOTHING


@pytest.mark.parametrize(
    "name",
    [
        "a?b.db",
        "a#b.db",
        "a%20b.db",
        "with space.db",
        "Bücher-用户-🙂.db",
        "a'b\".db",
        "a\nb.db",
        "-d",
    ],
)
def test_any_name_works(name: str, path: Path) -> None:
    """No character of a name is read as anything but a character, at any step of a start."""
    database = path.with_name(name)
    at("006").write(database)
    outcome = prepare(database)
    assert outcome.backup is not None
    assert outcome.backup.name.startswith(f"{name}.backup-")
    assert prepare(database).action is Action.NOTHING
    assert all(other.startswith(name) for other in names(path.parent))


def test_a_name_that_is_no_text_works(path: Path) -> None:
    """Bytes that are no UTF-8 are a name like any other."""
    database = path.with_name(os.fsdecode(b"a\xff\xfe.db"))
    at("006").write(database)
    assert prepare(database).action is Action.UPGRADE
    assert prepare(database).action is Action.NOTHING


def test_two_slashes_are_one_path(path: Path) -> None:
    """A path that begins with two slashes is no host."""
    database = Path(f"/{path}")
    assert str(database).startswith("//")
    assert prepare(database).action is Action.CREATE
    assert prepare(database).action is Action.NOTHING


def test_the_longest_name_can_be_migrated(path: Path) -> None:
    """A name that is let in leaves room for every file that is made beside it."""
    database = path.with_name("x" * 175)
    at("006").write(database)
    outcome = prepare(database)
    assert outcome.backup is not None
    assert refused(lambda: prepare(path.with_name("x" * 176))).code == "bad-path"


def test_two_names_of_one_file_have_one_lock(path: Path) -> None:
    """A link and its file are never migrated at once, and share what lies beside them."""
    at("006").write(path)
    link = path.parent.parent / "link.db"
    link.symlink_to(path)
    with lock.guard(path, 0):
        assert _in_thread(lambda: prepare(link, lock_timeout=0)).code == "lock-timeout"
    outcome = prepare(link)
    assert outcome.backup is not None
    assert outcome.backup.parent == path.parent


def test_a_second_name_is_warned_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing can keep two hard links apart but the person who uses both, so they are told."""
    prepare(path)
    assert "hard links" not in caplog.text
    path.with_name("other.db").hardlink_to(path)
    prepare(path)
    assert f"{path} has 2 names (hard links)" in caplog.text


def _in_thread(call: Callable[[], object]) -> TokenStorageError:
    errors: list[TokenStorageError] = []
    thread = threading.Thread(target=lambda: errors.append(refused(call)))
    thread.start()
    thread.join()
    return errors[0]
