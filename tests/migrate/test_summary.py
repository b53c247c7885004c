"""The texts that the server and the commands print for outcomes and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.errors import (
    TokenStorageError,
    describe_error,
    printable,
    traceback_lines,
)
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


def test_an_error_is_its_message_and_remedy() -> None:
    """The message with its code and the remedy are a line each, with escapes."""
    error = TokenStorageError("No\nway.", code="foreign", remedy="Go\x1b[2J on.")
    assert describe_error(error) == ("error: No\\nway. [foreign]", "remedy: Go\\x1b[2J on.")


def test_a_traceback_has_no_remedy() -> None:
    """It has the code and other notes, and control characters are escaped."""
    error = TokenStorageError("No\x1b[2J way.", code="foreign", remedy="Go on.")
    error.add_note("seed 4")
    first, *_, message, code, note = traceback_lines(_raised(error))
    assert first == "Traceback (most recent call last):"
    assert message.endswith(".TokenStorageError: No\\x1b[2J way.")
    assert (code, note) == ("[foreign]", "seed 4")
    assert traceback_lines(_raised(ValueError("odd")))[-1] == "ValueError: odd"


def _raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError(""), "ValueError"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (ValueError("x" * 500), "ValueError: " + "x" * 200 + "..."),
        (OSError(5, "oops", "/d\n"), "OSError: [Errno 5] oops: '/d\\n'"),
        (ValueError("key " + "A" * 43 + "= is odd"), "ValueError: key *** is odd"),
        (ValueError("token gAAAAAB" + "b" * 60), "ValueError: token ***"),
        (ValueError("at sqlite://me:pa@ss@host/x"), "ValueError: at sqlite://***host/x"),
    ],
)
def test_any_other_error_is_one_line(error: Exception, expected: str) -> None:
    """An error without a code is its type and first line, without possible secrets."""
    first, remedy = describe_error(error)
    assert first == f"unexpected error: {expected.replace(chr(10), chr(92) + 'n')}"
    assert "--debug" in remedy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grüße 🔑", "grüße 🔑"),
        ("a\tb\r\n", "a\\tb\\r\\n"),
        ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
        ("\udce9", "\\udce9"),
        ("\u202egnp", "\\u202egnp"),
        ("back\\slash", "back\\slash"),
    ],
)
def test_control_characters_are_escaped(text: str, expected: str) -> None:
    """Control characters, direction marks and undecodable bytes are printed as escapes."""
    assert printable(text) == expected
