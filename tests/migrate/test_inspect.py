"""The target of a downgrade, found from an inspection."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.migrate.change import downgrade_target
from nextcloud_mcp_server.schema.history import BASE, load_history
from tests.cli.places import Shelf
from tests.support.by_path import inspect
from tests.support.errors import refused


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
    ("state", "revision", "code"),
    [
        *(("behind", revision, "bad-input") for revision in ("007", "010", "-0", "-8", "-9999")),
        *(
            ("behind", revision, "unknown-revision")
            for revision in ("-99999", "--1", "-²", "-\u0661", "", "7")
        ),
        *(
            (state, revision, "bad-input")
            for state in ("behind", "missing")
            for revision in ("head", "+1")
        ),
        ("missing", "base", "bad-path"),
        ("zero-bytes", "base", "bad-input"),
        ("pre-alembic", "base", "bad-input"),
        ("newer", "base", "unknown-revision"),
    ],
)
def test_other_targets_and_states_are_refused(
    state: str, revision: str, code: str, shelf: Shelf, tmp_path: Path
) -> None:
    """The target must be below, and the database must have a recorded, known revision."""
    report = inspect(shelf.put(state, tmp_path / "t.db"))
    assert refused(lambda: downgrade_target(report, revision)).code == code


def test_a_remedy_can_be_typed(shelf: Shelf, tmp_path: Path) -> None:
    """A path with a space is quoted in the command."""
    report = inspect(tmp_path / "not there.db")
    error = refused(lambda: downgrade_target(report, None))
    assert error.remedy.endswith(f"db upgrade -d '{tmp_path}/not there.db'")


def test_undone_revisions_are_listed_newest_first() -> None:
    """A downgrade undoes the recorded revision and all others above its target."""
    history = load_history()
    assert history.undone("004", "002") == ("004", "003")
    assert history.undone("002", BASE) == ("002", "001")
