"""What a look reports, and where a downgrade may go."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate.change import downgrade_target
from nextcloud_mcp_server.schema.history import BASE, load_history
from tests.cli.places import Shelf
from tests.support.by_path import inspect


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Databases in every state."""
    return Shelf(tmp_path_factory.mktemp("states"))


@pytest.mark.parametrize(
    ("revision", "expected"),
    [
        (None, "006"),
        ("-1", "006"),
        ("-6", "001"),
        ("-7", BASE),
        ("base", BASE),
        ("001", "001"),
        ("006", "006"),
    ],
)
def test_a_downgrade_ends_below(
    revision: str | None, expected: str, shelf: Shelf, tmp_path: Path
) -> None:
    """Steps are counted from the recorded revision; one is the default."""
    report = inspect(shelf.put("behind", tmp_path / "t.db"))
    assert downgrade_target(report, revision) == expected


@pytest.mark.parametrize(
    ("revision", "code"),
    [
        ("007", "bad-input"),
        ("010", "bad-input"),
        ("-0", "bad-input"),
        ("-8", "bad-input"),
        ("-9999", "bad-input"),
        ("-99999", "unknown-revision"),
        ("--1", "unknown-revision"),
        ("-²", "unknown-revision"),
        ("-\u0661", "unknown-revision"),
        ("", "unknown-revision"),
        ("7", "unknown-revision"),
        ("head", "unknown-revision"),
    ],
)
def test_a_downgrade_goes_nowhere_else(
    revision: str, code: str, shelf: Shelf, tmp_path: Path
) -> None:
    """What is not below, and more steps than there are, is refused and never taken for base."""
    report = inspect(shelf.put("behind", tmp_path / "t.db"))
    with pytest.raises(TokenStorageError) as error:
        downgrade_target(report, revision)
    assert error.value.code == code


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("missing", "bad-path"),
        ("zero-bytes", "bad-input"),
        ("pre-alembic", "bad-input"),
        ("newer", "unknown-revision"),
    ],
)
def test_there_must_be_a_revision_to_go_back_from(
    state: str, code: str, shelf: Shelf, tmp_path: Path
) -> None:
    """A database without a recorded revision that is known here cannot go back."""
    report = inspect(shelf.put(state, tmp_path / "t.db"))
    with pytest.raises(TokenStorageError) as error:
        downgrade_target(report, "base")
    assert error.value.code == code


def test_a_remedy_can_be_typed(shelf: Shelf, tmp_path: Path) -> None:
    """A path with a space is quoted in the command of a remedy."""
    report = inspect(tmp_path / "not there.db")
    with pytest.raises(TokenStorageError) as error:
        downgrade_target(report, None)
    assert error.value.remedy.endswith(f"db upgrade -d '{tmp_path}/not there.db'")


def test_what_is_undone_is_named_newest_first() -> None:
    """A downgrade undoes what lies above its target, the recorded revision included."""
    history = load_history()
    assert history.undone("004", "002") == ("004", "003")
    assert history.undone("002", BASE) == ("002", "001")
