"""The functions for scripts: synchronous, safe to call anywhere, as safe as a start."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate.change import Change
from nextcloud_mcp_server.migrate.plan import Action
from nextcloud_mcp_server.migrations import (
    create_migration,
    downgrade_database,
    get_current_revision,
    get_head_revision,
    stamp_database,
    upgrade_database,
)
from nextcloud_mcp_server.schema.history import load_history
from tests.support import invariants
from tests.support.contents import KEY
from tests.support.errors import refused
from tests.support.files import names
from tests.support.shapes import at
from tests.support.snapshot import snapshot

HEAD = get_head_revision()


@pytest.mark.parametrize(
    ("revision", "code"),
    [
        ("-7", "bad-input"),
        ("-0", "bad-input"),
        ("006", "bad-input"),
        ("009", "bad-input"),
        ("999", "unknown-revision"),
        ("head", "bad-input"),
        ("", "unknown-revision"),
        ("-", "unknown-revision"),
        ("-1x", "unknown-revision"),
        ("+1", "bad-input"),
        ("-99999999999999999999", "unknown-revision"),
        ("-" + "9" * 5000, "unknown-revision"),
        ("x\n", "unknown-revision"),
    ],
)
def test_a_downgrade_to_a_wrong_target_changes_nothing(
    revision: str, code: str, path: Path
) -> None:
    """A target that is not below, or is no revision, is refused before anything is written."""
    at("006").write(path)
    with invariants.unchanged(path):
        assert refused(lambda: downgrade_database(path, revision)).code == code


def test_an_upgrade_verifies_the_keys(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that the server would refuse is refused before the migration; none is needed."""
    at("006").write(path)
    with invariants.unchanged(path):
        monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", Fernet.generate_key().decode())
        assert refused(lambda: upgrade_database(path)).code == "wrong-key"
    monkeypatch.delenv("TOKEN_ENCRYPTION_KEY")
    assert upgrade_database(path).after == HEAD


@pytest.mark.parametrize(
    ("change", "first", "then"),
    [(downgrade_database, "005", "004"), (stamp_database, "005", "006")],
)
def test_a_downgrade_and_a_stamp_verify_the_keys(
    change: Callable[..., Change],
    first: str,
    then: str,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong or malformed key is refused; no key, or the right one among several, is accepted."""
    at("006").write(path)
    with invariants.unchanged(path):
        monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", Fernet.generate_key().decode())
        assert refused(lambda: change(path, first)).code == "wrong-key"
        monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", "short")
        assert refused(lambda: change(path, first)).code == "malformed-key"
    monkeypatch.delenv("TOKEN_ENCRYPTION_KEY")
    assert change(path, first).after == first
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", f"{Fernet.generate_key().decode()};{KEY}")
    assert change(path, then).after == then


def test_an_upgrade_goes_to_head_or_to_a_revision(path: Path) -> None:
    """Head is the default; an unknown revision, or one below, is refused."""
    assert upgrade_database(path, "004").after == "004"
    assert upgrade_database(path, "004").action is Action.NOTHING
    assert upgrade_database(path).after == HEAD
    assert upgrade_database(str(path), "head").action is Action.NOTHING
    with invariants.unchanged(path):
        for revision in ("999", ""):
            assert refused(partial(upgrade_database, path, revision)).code == "unknown-revision"
        for revision in ("base", "003"):
            assert refused(partial(upgrade_database, path, revision)).code == "bad-input"


def test_a_database_is_a_path_a_url_or_the_settings(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file is reached by its path, by its URL and through the environment."""
    assert upgrade_database(f"sqlite:///{path}").database == path
    assert get_current_revision(path) == HEAD
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("TOKEN_STORAGE_DB", str(path))
    assert get_current_revision() == HEAD
    assert downgrade_database().after == load_history().revisions[-2]
    assert stamp_database(revision="010").after == "010"
    assert upgrade_database().after == HEAD


def test_the_lock_timeout_is_the_settings(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TOKEN_STORAGE_LOCK_TIMEOUT holds for scripts as well."""
    monkeypatch.setenv("TOKEN_STORAGE_LOCK_TIMEOUT", "nonsense")
    assert refused(lambda: upgrade_database(path)).code == "bad-input"
    assert names(path.parent) == set()


def test_asking_for_the_revision_changes_nothing(path: Path) -> None:
    """No file is created or changed; what is no database is refused."""
    assert get_current_revision(path) is None
    assert names(path.parent) == set()
    at("006").write(path)
    before = invariants.disk(path)
    assert get_current_revision(path) == "006"
    assert invariants.disk(path) == before
    for shape, answer in (
        (at("001").unversioned(), None),
        (at("006").recording("999"), "999"),
        (at("006").recording(), None),
    ):
        path.unlink()
        shape.write(path)
        assert get_current_revision(path) == answer
    path.unlink()
    path.write_text("no database" * 99)
    assert refused(lambda: get_current_revision(path)).code == "not-a-database"


def test_head_is_the_newest_revision_for_a_stamp(path: Path) -> None:
    """Stamping head records head, where the tables are those of head."""
    upgrade_database(path)
    assert stamp_database(path).after == HEAD
    assert get_current_revision(path) == HEAD


async def test_every_function_works_inside_a_running_loop(path: Path) -> None:
    """Called from a coroutine, each does its work and leaves the loop as it was."""
    at("006").write(path)
    loop = asyncio.get_running_loop()
    assert upgrade_database(path).after == HEAD
    assert downgrade_database(path, "009").after == "009"
    assert stamp_database(path, "009").after == "009"
    assert get_current_revision(path) == "009"
    assert asyncio.get_running_loop() is loop


def test_threads_of_one_process_take_turns(path: Path) -> None:
    """Eight threads upgrade one file at once, and others their own: one migrates each file."""
    shared = path.with_name("shared.db")
    at("006").write(shared)
    own = [path.with_name(f"{number}.db") for number in range(4)]
    for file in own:
        at("003").write(file)
    actions: list[Action] = []
    errors: list[BaseException] = []

    def run(file: Path) -> None:
        try:
            actions.append(upgrade_database(file).action)
        except BaseException as error:  # noqa: BLE001 - reported by the test
            errors.append(error)

    threads = [threading.Thread(target=run, args=(file,)) for file in [shared] * 8 + own]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(actions) == [Action.NOTHING] * 7 + [Action.UPGRADE] * 5


def test_up_and_down_in_threads_never_lose_a_grant(path: Path) -> None:
    """Upgrades and downgrades at once are refused or done, and every grant is there after."""
    at("006").write(path)
    calls: list[Callable[[], object]] = [
        lambda: upgrade_database(path),
        lambda: downgrade_database(path, "006"),
    ]
    codes: set[str] = set()

    def run(call: Callable[[], object]) -> None:
        try:
            call()
        except TokenStorageError as error:
            codes.add(error.code)

    threads = [threading.Thread(target=run, args=(calls[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes <= {"bad-input"}
    upgrade_database(path)
    assert len(snapshot(path).rows["refresh_tokens"]) == 12


@pytest.mark.parametrize("given", [5, b"-1", ["001"]])
def test_a_revision_that_is_no_text_is_unknown(given: Any, path: Path) -> None:
    """An argument of the wrong type is refused as an unknown revision."""
    upgrade_database(path)
    for change in (upgrade_database, downgrade_database, stamp_database):
        error = refused(lambda change=change: change(path, given))  # type: ignore[misc]
        assert error.code == "unknown-revision"


def test_a_migration_is_created_in_the_checkout(own_scripts: Path, path: Path) -> None:
    """The new file has the next id, runs at once, and an empty message is refused."""
    made = create_migration("  Add   user preferences: table! ")
    assert made.parent == own_scripts / "versions"
    assert made.name.endswith("_101_add_user_preferences_table.py")
    assert upgrade_database(path).after == "101"
    assert create_migration("second").name.endswith("_102_second.py")
    assert get_head_revision() == "102"
    nothing: list[Any] = [" ?! ", 5, None, b"add"]
    for message in nothing:
        assert refused(lambda message=message: create_migration(message)).code == "bad-input"  # type: ignore[misc]
