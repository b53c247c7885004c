"""A version row that a person has typed is told as such, with the revision that was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.manifest import read_manifest
from tests.cli.places import execute
from tests.migrate.databases import versions
from tests.support import invariants
from tests.support.by_path import inspect, prepare, stamp
from tests.support.errors import refused
from tests.support.shapes import at

TYPED = {
    "'5'": "the text '5'",
    "'005 '": "the text '005 '",
    "x'303035'": "the BLOB b'005'",
    "5": "the number 5",
    "5.0": "the number 5.0",
    "'v005'": "the text 'v005'",
    "'\"005\"'": "the text '\"005\"'",
    "'005' || char(13, 10)": r"the text '005\r\n'",
    "'005_add_login_flow_sessions'": "the text '005_add_login_flow_sessions'",
}


def record(path: Path, *values: str) -> None:
    """Create a database at 005 whose version table has no type, and these rows."""
    at("005").write(path)
    execute(
        path,
        "DROP TABLE alembic_version",
        "CREATE TABLE alembic_version (version_num)",
        *(f"INSERT INTO alembic_version VALUES ({value})" for value in values),
    )


@pytest.mark.parametrize(("value", "held"), TYPED.items(), ids=TYPED)
def test_a_typed_revision_is_named_with_the_one_that_was_meant(
    value: str, held: str, path: Path
) -> None:
    """Nothing is changed; `db stamp 005`, as the remedy has it, works, after a backup."""
    record(path, value)
    with invariants.unchanged(path):
        error = refused(lambda: prepare(path))
    assert error.code == "unknown-revision"
    assert f"typed by hand: alembic_version holds {held}, and 005 was probably meant." in str(error)
    assert f"db repair -d {path} " in error.remedy
    assert f"db stamp 005 -d {path})" in error.remedy
    backup = stamp(path, "005").backup
    assert versions(path) == ["005"]
    assert backup is not None
    assert read_manifest(backup) is not None


def test_several_meanings_are_ambiguous(path: Path) -> None:
    """Typed rows that mean different revisions are all named."""
    record(path, "'5'", "x'303036'", "'003'")
    error = refused(lambda: prepare(path))
    assert error.code == "ambiguous-version"
    assert "the BLOB b'006' and the text '003' and the text '5'" in str(error)


@pytest.mark.parametrize("value", ["'999 '", "99", "'a1b2c3d4e5f6'", "'head'", "'5 6'", "x'ff'"])
def test_another_value_is_no_typed_revision(value: str, path: Path) -> None:
    """What it means cannot be determined: a newer release may have written it."""
    record(path, value)
    finding = inspect(path).finding
    assert (finding.state.value, finding.meant) == ("unknown-revision", "")
    assert refused(lambda: stamp(path, "005")).code == "unknown-revision"
