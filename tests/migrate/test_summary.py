"""The texts that the server and the commands print for outcomes."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.migrate.plan import Action, Plan, State
from nextcloud_mcp_server.migrate.startup import Outcome
from nextcloud_mcp_server.migrate.summary import outcome_lines
from nextcloud_mcp_server.schema.structure import Gaps

DATABASE, BACKUP = Path("/d/t.db"), Path("/d/t.db.backup-1")
UP = Plan(Action.UPGRADE, "010", start="004", steps=("005", "010"))

OUTCOMES = [
    (State.NEW, Plan(Action.CREATE, "010"), "created /d/t.db at revision 010 in 0.03 s"),
    (
        State.PRE_ALEMBIC,
        Plan(Action.STAMP, "010", start="001", stamp="001", steps=("002",)),
        "stamped /d/t.db with 001 and upgraded it to 010 in 0.03 s",
    ),
    (
        State.PRE_ALEMBIC,
        Plan(Action.STAMP, "010", start="010", stamp="010"),
        "stamped /d/t.db with 010 in 0.03 s",
    ),
    (State.BEHIND, UP, "upgraded /d/t.db from 004 to 010 in 0.03 s"),
    (
        State.BEHIND,
        UP._replace(gaps=Gaps(tables=("a", "b"))),
        "upgraded /d/t.db from 004 to 010 (added table a, table b) in 0.03 s",
    ),
    (
        State.AT_HEAD,
        Plan(Action.MEND, "010", start="010", stamp="010"),
        "repaired /d/t.db at revision 010 (put the version table in order) in 0.03 s",
    ),
    (
        State.AT_HEAD,
        Plan(Action.MEND, "010", start="010", unusable=("batch_ocr_jobs",)),
        (
            "repaired /d/t.db at revision 010 "
            "(recreated batch_ocr_jobs in its released shape) in 0.03 s"
        ),
    ),
    (
        State.AT_HEAD,
        Plan(Action.NOTHING, "010", start="010"),
        "/d/t.db is at revision 010 already: nothing to do",
    ),
]


@pytest.mark.parametrize(("state", "done", "expected"), OUTCOMES)
def test_an_outcome_is_one_sentence(state: State, done: Plan, expected: str) -> None:
    """Each action of a start has a sentence with its duration."""
    outcome = Outcome(DATABASE, state, done, seconds=0.0341)
    assert "; ".join(outcome_lines(outcome)) == expected
    assert outcome_lines(outcome) == (expected,)


def test_an_outcome_has_its_backup() -> None:
    """The path of the backup is at the end."""
    outcome = Outcome(DATABASE, State.BEHIND, UP, BACKUP, seconds=1)
    assert outcome_lines(outcome)[1:] == ("backup: /d/t.db.backup-1",)
    assert "; ".join(outcome_lines(outcome)).endswith("1.00 s; backup: /d/t.db.backup-1")
