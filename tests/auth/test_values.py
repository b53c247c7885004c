"""The stored formats of values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextcloud_mcp_server.auth import values
from tests.support.errors import refuses


@given(st.lists(st.text()))
def test_a_list_is_read_as_written(items: list[str]) -> None:
    """Texts keep their order, and an empty list stays empty."""
    assert values.read_json_list(values.json_list(items), "x") == tuple(items)


def test_formats_are_those_of_the_releases() -> None:
    """The formats are exactly those of the releases."""
    assert values.json_list(["notes.read", "ü"]) == '["notes.read", "\\u00fc"]'
    assert values.json_list([]) == "[]"
    assert values.json_list(None) is None
    assert values.spaced(["openid", "notes:read"]) == "openid notes:read"
    assert values.spaced([]) == ""
    assert values.spaced(None) is None
    assert values.read_spaced("openid  notes:read ") == ("openid", "notes:read")
    assert values.read_spaced("") == ()
    assert values.read_spaced(None) is None


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (values.read_json_list, "s3cr3t"),
        (values.read_json_list, ""),
        (values.read_json_list, "{}"),
        (values.read_json_list, "[1]"),
        (values.read_json_list, b"\xff"),
        (values.read_json_list, 7),
        (values.read_json_dict, "[]"),
        (values.read_json_dict, '{"a": s3cr3t'),
        (values.read_json_dict, "[" * 200_000),
        (values.read_seconds, "s3cr3t"),
        (values.read_seconds, 1.5),
        (values.read_seconds, None),
    ],
)
def test_another_format_is_unreadable(read: Callable[[Any, str], Any], value: Any) -> None:
    """The error names the place and does not contain the value."""
    with refuses("unreadable", match=r"^table\.column of user 'u' is not ") as caught:
        read(value, "table.column of user 'u'")
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__context__ is None
