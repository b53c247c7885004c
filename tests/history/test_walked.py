"""Each old database can be walked up, down and up again, as an embedder would test it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nextcloud_mcp_server.testing.walk import StartWalk
from tests.faults.trials import half
from tests.history import corpus, released_files
from tests.history.case import Case
from tests.support.revisions import HEAD

CASES = [
    case
    for case in (*released_files.recorded(), *corpus.all_cases())
    if not case.refusal and case.action != "create"
]


@pytest.mark.parametrize("case", half(CASES), ids=lambda case: case.name)
def test_an_old_database_makes_the_round_trip(
    case: Case, migration_walk: StartWalk, tmp_path: Path
) -> None:
    """The downgrades make the tables of the revisions, whatever shape a release had made."""
    path = tmp_path / "tokens.db"
    case.write(path)
    walk = migration_walk(path)
    try:
        walk.round_trip()
    except AssertionError as error:
        # 004 corrects the scopes of one release: its rows change, and a user declares that.
        changed = r"revision 004, upgrade \(003 -> 004\), changes (requested_)?scopes of "
        assert re.match(changed, str(error))
    else:
        assert walk.revision == HEAD
