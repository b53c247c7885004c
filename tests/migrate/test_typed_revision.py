"""A version row that a person has typed is told as such, with the revision that was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.manifest import read_manifest
from nextcloud_mcp_server.maintenance.corrections import corrected_state
from nextcloud_mcp_server.migrate.plan import State
from nextcloud_mcp_server.schema.history import load_history
from tests.cli.places import execute
from tests.migrate.databases import versions
from tests.support import invariants
from tests.support.by_path import inspect, prepare, stamp
from tests.support.errors import refused, refuses
from tests.support.revisions import HEAD
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
    "'005' || char(0)": r"the text '005\x00'",
    "'005' || char(8203)": r"the text '005\u200b'",
    "char(65279) || '005'": r"the text '\ufeff005'",
    "'0' || char(8288) || '05'": r"the text '0\u206005'",
    "char(160) || '005'": r"the text '\xa0005'",
    "x'efbbbf303035'": r"the BLOB b'\xef\xbb\xbf005'",
    "x'3000300035000000'": r"the BLOB b'0\x000\x005\x00\x00\x00'",
    "x'fffe300030003500'": r"the BLOB b'\xff\xfe0\x000\x005\x00'",
    "x'feff003000300035'": r"the BLOB b'\xfe\xff\x000\x000\x005'",
    "'\uff10\uff10\uff15'": "the text '\uff10\uff10\uff15'",
    "'\u0660\u0660\u0665'": "the text '\u0660\u0660\u0665'",
    "'0000005'": "the text '0000005'",
    "'OO5'": "the text 'OO5'",
    "'20260502_1703_005_add_login_flow.py'": "the text '20260502_1703_005_add_login_flow.py'",
    "'005_add_login_flow.py'": "the text '005_add_login_flow.py'",
    "'alembic/versions/005_x.py'": "the text 'alembic/versions/005_x.py'",
    "'Revision ID: 005'": "the text 'Revision ID: 005'",
    "'005 (head)'": "the text '005 (head)'",
    "'005,005'": "the text '005,005'",
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
    error = refused(lambda: prepare(path), "ambiguous-version")
    assert "the BLOB b'006' and the text '003' and the text '5'" in str(error)


@pytest.mark.parametrize("value", ["'005,006'", "'005' || char(10) || '006'", "'005; 006'"])
def test_several_in_one_row_are_ambiguous_too(value: str, path: Path) -> None:
    """`db repair`, as the remedy has it, records the one that the tables have."""
    record(path, value)
    with invariants.unchanged(path), refuses("ambiguous-version", "holds the text '005"):
        prepare(path)
    stamp(path, "005")
    assert versions(path) == ["005"]


@pytest.mark.parametrize(
    "word", ["head", "heads", "base", "NULL", "None", "'head'", "<head>", "0x5"]
)
def test_a_word_is_typed_by_hand_too(word: str, path: Path) -> None:
    """It means no revision for sure, so the remedy is `db repair`, or `db stamp REVISION`."""
    quoted = word.replace("'", "''")
    record(path, f"'{quoted}'")
    with (
        invariants.unchanged(path),
        refuses(
            "unknown-revision", f"typed by hand: alembic_version holds the text .*{word}"
        ) as caught,
    ):
        prepare(path)
    assert f"db repair -d {path} " in caught.value.remedy
    assert f"db stamp REVISION -d {path})" in caught.value.remedy
    corrected = corrected_state(inspect(path).snapshot, load_history())
    assert corrected is not None
    assert corrected.base == "005"


@pytest.mark.parametrize(
    "blank",
    [
        *("NULL", "''", "' '", "x''", "x'0000'"),
        *("char(9)", "char(160)", "char(0)", "char(8203)", "char(65279)"),
    ],
)
def test_a_row_that_shows_nothing_is_an_empty_one(blank: str, path: Path) -> None:
    """The database counts as one without a version, or as the revision of the other row."""
    record(path, blank)
    assert inspect(path).finding.state is State.PRE_ALEMBIC
    assert prepare(path).after == HEAD
    assert versions(path) == [HEAD]
    path.unlink()
    record(path, blank, "'005'")
    assert inspect(path).finding.recorded == "005"
    assert prepare(path).after == HEAD
    assert versions(path) == [HEAD]


@pytest.mark.parametrize(
    "value",
    [
        "replace(hex(zeroblob(50000)), '0', 'x')",
        "zeroblob(9) || hex(zeroblob(50000))",
        "hex(zeroblob(50000))",
    ],
)
def test_a_long_row_is_shortened_in_the_error(value: str, path: Path) -> None:
    """No more than its beginning is printed."""
    record(path, value, value)
    error = refused(lambda: prepare(path))
    assert len(error.message) < 300 + len(str(path))
    assert len(f"{inspect(path).finding.recorded}") < 100


@pytest.mark.parametrize("value", ["'999 '", "99", "'a1b2c3d4e5f6'", "'5 6'", "x'ff'", "'005,999'"])
def test_another_value_is_no_typed_revision(value: str, path: Path) -> None:
    """What it means cannot be determined: a newer release may have written it."""
    record(path, value)
    finding = inspect(path).finding
    assert (finding.state.value, finding.meant) == ("unknown-revision", "")
    assert refused(lambda: stamp(path, "005")).code == "unknown-revision"
