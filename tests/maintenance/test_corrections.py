"""What may be mended of a refused database, and what may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.inspect import look
from nextcloud_mcp_server.maintenance.corrections import Rename, amends
from nextcloud_mcp_server.migrate.inspect import known_history
from nextcloud_mcp_server.migrate.plan import State
from tests.support.revisions import NEXT_ID
from tests.support.shapes import Shape, at

RENAME = "ALTER TABLE refresh_tokens RENAME COLUMN {} TO {}"


def misspelt(column: str, written: str, revision: str = "009") -> Shape:
    """A database in which a bit of a column's name was flipped."""
    return at(revision).also(RENAME.format(column, written))


@pytest.mark.parametrize(
    ("column", "written"),
    [
        ("provisioning_client_id", "qrovisioning_client_id"),
        ("encrypted_token", "encrypted_tokdn"),
        ("user_id", "user_ie"),
        ("created_at", "creatgd_at"),
    ],
)
def test_a_misspelt_column_gets_its_name_back(tmp_path: Path, column: str, written: str) -> None:
    """A column that no release made, where one is missing that is nearly the same, is that one."""
    misspelt(column, written).write(tmp_path / "t.db")
    found = amends(look(tmp_path / "t.db"), known_history())
    assert found is not None
    assert found.renames == (Rename("refresh_tokens", written, column),)
    assert (found.forgets, found.finding.state) == (False, State.BEHIND)


@pytest.mark.parametrize(
    ("versions", "base"),
    [(("005", "006"), "006"), (("001", "010"), "006"), (("6",), "006"), ((" 006",), "006")],
)
def test_version_rows_that_the_tables_deny_are_forgotten(
    tmp_path: Path, versions: tuple[str, ...], base: str
) -> None:
    """The newest revision whose structure is whole is what the tables are."""
    at("006").recording(*versions).write(tmp_path / "t.db")
    found = amends(look(tmp_path / "t.db"), known_history())
    assert found is not None
    assert (found.forgets, found.finding.base, found.renames) == (True, base, ())


def test_a_version_table_of_another_shape_is_forgotten(tmp_path: Path) -> None:
    """A version table without version_num says nothing that Alembic could read."""
    table = (
        "CREATE TABLE alembic_version (version TEXT)",
        "INSERT INTO alembic_version VALUES (6)",
    )
    shape = misspelt("encrypted_token", "encrypted_tokdn", "006").unversioned().also(*table)
    shape.write(tmp_path / "t.db")
    found = amends(look(tmp_path / "t.db"), known_history())
    assert found is not None
    assert found.forgets
    assert found.renames == (Rename("refresh_tokens", "encrypted_tokdn", "encrypted_token"),)


@pytest.mark.parametrize(
    "shape",
    [
        at("009").without("refresh_tokens"),
        at("010").recording("011"),
        at("010").recording(NEXT_ID),
        at("010").recording("010", NEXT_ID),
        at("010").recording("9a1b2c3d4e5f"),
        at("009").narrowed("refresh_tokens", "encrypted_token"),
        at("009"),
        Shape(versions=()),
        Shape().also("CREATE TABLE songs (title TEXT)"),
        # Two candidates: nobody can tell which of them it was.
        misspelt("encrypted_token", "encrypted_tokdn").also(
            "ALTER TABLE refresh_tokens ADD COLUMN encrypted_toker TEXT"
        ),
    ],
    ids=[
        "no grants",
        "011",
        NEXT_ID,
        f"010 and {NEXT_ID}",
        "another line",
        "no tokens",
        "healthy",
        "base",
        "foreign",
        "two candidates",
    ],
)
def test_what_is_not_safe_is_not_offered(tmp_path: Path, shape: Shape) -> None:
    """Lost grants, newer releases, strangers and guesses are left to a person."""
    shape.write(tmp_path / "t.db")
    assert amends(look(tmp_path / "t.db"), known_history()) is None
