"""Values that a column can have, and those that are refused."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextcloud_mcp_server.crypto.binding import hashed
from nextcloud_mcp_server.maintenance.copy.values import (
    Boolean,
    Ciphertext,
    Column,
    Kind,
    Moment,
    Part,
    Problem,
    Real,
    Text,
    UnfitError,
    Whole,
)

KINDS: list[Kind] = [Text(), Ciphertext(), Whole(32), Whole(64), Boolean(), Moment(), Real()]

ACCEPTED = [
    (Text(), "", ""),
    (Text(), "Ünï 🙂", "Ünï 🙂"),
    (Ciphertext(), b"\0\xff", b"\0\xff"),
    (Ciphertext(), "gAAAA", b"gAAAA"),
    (Ciphertext(), "a\udcff", b"a\xff"),
    (Whole(32), 2**31 - 1, 2**31 - 1),
    (Whole(64), -(2**63), -(2**63)),
    (Whole(64), 1_795_350_607.0, 1_795_350_607),
    (Boolean(), 0, False),
    (Boolean(), True, True),
    (Moment(), "2026-06-07 18:20:00", datetime(2026, 6, 7, 18, 20)),  # noqa: DTZ001 - UTC
    (Moment(), "2026-06-07T18:20:00.5+02:00", datetime(2026, 6, 7, 16, 20, 0, 500_000)),  # noqa: DTZ001
    (Real(), 3, 3.0),
]

REFUSED = [
    (Text(), b"ab", "is bytes, not text"),
    (Text(), 1, "is a whole number, not text"),
    (Text(), "a\0b", "contains a null character"),
    (Text(), "a\udcff", "is not valid UTF-8"),
    (Ciphertext(), 7, "is a whole number, not encrypted bytes"),
    (Whole(32), 2**31, "is not between -2147483648 and 2147483647"),
    (Whole(64), 2**63, "is not between -9223372036854775808 and 9223372036854775807"),
    (Whole(64), 1.5, "is a floating-point number, not a whole number"),
    (Whole(64), float(2**60), "is a floating-point number, not a whole number"),
    (Whole(64), float("nan"), "is a floating-point number, not a whole number"),
    (Whole(64), True, "is bool, not a whole number"),
    (Whole(64), "12", "is text, not a whole number"),
    (Boolean(), 2, "is neither 0 nor 1"),
    (Boolean(), 1.0, "is neither 0 nor 1"),
    (Boolean(), "t", "is neither 0 nor 1"),
    (Moment(), 1, "is a whole number, not a time as in 2026-01-31 12:00:00"),
    (Moment(), "infinity", "is not a time as in 2026-01-31 12:00:00"),
    (Moment(), "2026-01-31 12:00:00 BC", "is not a time as in 2026-01-31 12:00:00"),
    (Moment(), "2026-01-31 12:00:00.1234567", "is not a time as in 2026-01-31 12:00:00"),
    (Moment(), "2026-02-30 12:00:00", "is not a time that exists"),
    (Moment(), "0001-01-01 00:00:00+14:00", "is not a time that exists"),
    (Real(), float("inf"), "is a floating-point number, not a finite number"),
    (Real(), "1", "is text, not a finite number"),
]


@pytest.mark.parametrize(("kind", "value", "canonical"), ACCEPTED)
def test_a_value_has_one_form(kind: Kind, value: Any, canonical: Any) -> None:
    """Both engines' forms of a value become the same one."""
    found = kind.convert(value)
    assert (type(found), found) == (type(canonical), canonical)


@pytest.mark.parametrize(("kind", "value", "reason"), REFUSED)
def test_a_value_of_another_type_is_refused(kind: Kind, value: Any, reason: str) -> None:
    """What would be rounded, cut or changed is refused with the reason."""
    with pytest.raises(UnfitError) as caught:
        kind.convert(value)
    assert str(caught.value) == reason


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**64), 2**64),
    st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, -(2**63)]),
    st.floats(),
    st.binary(max_size=4),
    st.text(st.characters(), max_size=4),
    st.sampled_from(["a\0", "\udc80", "2026-01-31 12:00:00"]),
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: type(kind).__name__)
@given(values=st.lists(_VALUES, min_size=1, max_size=5))
def test_a_column_at_once_is_converted_as_each_value(kind: Kind, values: list[Any]) -> None:
    """The fast way through a column accepts only what each value's own check accepts."""
    done = kind.convert_all(values)
    if done is not None:
        assert list(done) == [None if one is None else kind.convert(one) for one in values]


def test_a_problem_names_the_row_and_not_the_value() -> None:
    """The key of the row is named, but for a session's, and the value is not."""
    part = Part(
        "oauth_sessions",
        (Column("session_id", Text(), required=True), Column("state", Text())),
        (0,),
    )
    problems: list[Problem] = []
    part.convert([("secret-session", "secret\0"), (None, "fine"), ("s", "fine")], problems)
    assert problems == [
        Problem("oauth_sessions", "session_id NULL", "session_id", "is NULL"),
        Problem(
            "oauth_sessions",
            f"session_id {hashed('secret-session')}",
            "state",
            "contains a null character",
        ),
    ]


def test_a_long_or_broken_key_is_printed_safely() -> None:
    """A key with control characters or of any length stays on its line."""
    part = Part("t", (Column("user_id", Text(), required=True),), (0,))
    assert part.row((b"a\xff",)) == "user_id a\N{REPLACEMENT CHARACTER}"
    assert part.row(("a\x1b\n",)) == r"user_id a\x1b\n"
    assert part.row(("x" * 80,)) == f"user_id {'x' * 60}..."
