"""Which refused databases a new version table corrects."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.inspect import inspect_file
from nextcloud_mcp_server.maintenance.corrections import corrected_state
from nextcloud_mcp_server.migrate.inspect import known_history
from tests.support.revisions import NEXT_ID
from tests.support.shapes import Shape, at

#: A version table that Alembic cannot read.
OTHER_COLUMN = (
    "CREATE TABLE alembic_version (version TEXT)",
    "INSERT INTO alembic_version VALUES (6)",
)


@pytest.mark.parametrize(
    ("shape", "base"),
    [
        (at("006").recording("005", "006"), "006"),
        (at("006").recording("001", "010"), "006"),
        (at("006").recording("6"), "006"),
        (at("006").recording(" 006"), "006"),
        (at("006").unversioned().also(*OTHER_COLUMN), "006"),
    ],
)
def test_a_version_table_that_contradicts_the_tables_is_replaced(
    tmp_path: Path, shape: Shape, base: str
) -> None:
    """The new row has the newest revision whose structure is complete."""
    shape.write(tmp_path / "t.db")
    found = corrected_state(inspect_file(tmp_path / "t.db"), known_history())
    assert found is not None
    assert found.base == base


@pytest.mark.parametrize(
    "shape",
    [
        at("009").without("refresh_tokens"),
        at("010").recording("011"),
        at("010").recording(NEXT_ID),
        at("010").recording("010", NEXT_ID),
        at("010").recording("9a1b2c3d4e5f"),
        at("009").narrowed("refresh_tokens", "encrypted_token"),
        at("009").also("ALTER TABLE refresh_tokens RENAME COLUMN encrypted_token TO tokdn"),
        at("009"),
        Shape(versions=()),
        Shape().also("CREATE TABLE songs (title TEXT)"),
    ],
    ids=[
        *("no grants", "011", NEXT_ID, f"010 and {NEXT_ID}", "another line"),
        *("no tokens", "renamed column", "healthy", "base", "foreign"),
    ],
)
def test_nothing_else_is_corrected(tmp_path: Path, shape: Shape) -> None:
    """Lost grants, newer releases and foreign databases stay refused."""
    shape.write(tmp_path / "t.db")
    assert corrected_state(inspect_file(tmp_path / "t.db"), known_history()) is None
