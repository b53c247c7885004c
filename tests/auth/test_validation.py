"""What is let in and what is not, as properties."""

from __future__ import annotations

import json
import math
import traceback
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nextcloud_mcp_server.auth import validation as valid
from nextcloud_mcp_server.errors import TokenStorageError

SENTINEL = "s3cr3t-sentinel"

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def refused(check: Callable[..., Any], *arguments: Any) -> TokenStorageError:
    """The refusal that the check must answer with."""
    with pytest.raises(TokenStorageError) as caught:
        check(*arguments)
    assert caught.value.code == "bad-input"
    assert caught.value.__context__ is None, "the error of a codec carries the value"
    return caught.value


def ok_user_id(value: str) -> bool:
    """The rule, said another way."""
    if any(unicodedata.category(c) in {"Cc", "Cs"} for c in value):
        return False
    return 1 <= len(value.encode()) <= 255


@given(st.text(max_size=300))
@example("")
@example("ü" * 127)
@example("ü" * 128)
@example("x" * 255)
@example("x" * 256)
@example("a\x00b")
@example("a\x7fb")
@example("a\x85b")
@example("a\nb")
@example("\ud800")
def test_user_ids(value: str) -> None:
    """1 to 255 bytes of UTF-8 without control characters are let in as they are; no other."""
    if ok_user_id(value):
        assert valid.user_id(value) == value
    else:
        refused(valid.user_id, value)


@given(st.integers() | st.floats() | st.booleans() | st.text() | st.none())
@example(0)
@example(253_402_300_799)
@example(253_402_300_800)
@example(-1)
@example(2**63)
@example(math.nan)
@example(math.inf)
@example(1.5)
@example(1.0)
@example(True)
def test_times(value: Any) -> None:
    """Only an int from 1970 to 9999 is a time in whole seconds."""
    if type(value) is int and 0 <= value <= 253_402_300_799:
        assert valid.seconds(value, "expires_at") == value
    else:
        refused(valid.seconds, value, "expires_at")


@given(st.lists(st.text()))
@example([])
@example(["notes.read", "notes:write"])
@example(["a b"])
@example([""])
@example(["a\u2003b"])
def test_scopes(value: list[str]) -> None:
    """Each scope is text without white space or control characters; order is kept."""
    ok = all(
        scope and not any(c.isspace() or unicodedata.category(c) in {"Cc", "Cs"} for c in scope)
        for scope in value
    )
    if ok:
        assert valid.scopes(value) == tuple(value)
        assert " ".join(value).split() == value
    else:
        refused(valid.scopes, value)


@pytest.mark.parametrize("value", ["notes.read", b"notes.read", 7, {"a"}, [1], ["x" * 70_000]])
def test_what_is_no_list_of_scopes(value: Any) -> None:
    """One text is not a list of its letters; neither is a set, which has no order."""
    refused(valid.scopes, value)


@given(st.dictionaries(st.text(), json_values))
@example({})
@example({"sub": "u-\U0001f642", "nested": {"a": [1, 2.5, None, True]}})
def test_profiles(value: dict[str, Any]) -> None:
    """What JSON can hold comes back as it was."""
    assert json.loads(valid.profile(value)) == value


def cycle() -> dict[str, Any]:
    """A dict that holds itself."""
    value: dict[str, Any] = {}
    value["self"] = value
    return value


def deep() -> dict[str, Any]:
    """A dict deeper than the interpreter's stack."""
    value: dict[str, Any] = {}
    for _ in range(200_000):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"a": math.nan},
        lambda: {"a": [math.inf]},
        lambda: {"a": b"x"},
        lambda: {"a": {1: "x"}},
        lambda: {None: 1},
        lambda: {"a": {"x"}},
        lambda: {"a": "x" * 2**20},
        lambda: ["a"],
        lambda: "{}",
        lambda: None,
        cycle,
        deep,
    ],
)
def test_what_is_no_profile(make: Callable[[], Any]) -> None:
    """NaN, bytes, keys that are not text, cycles and other types are refused."""
    refused(valid.profile, make())


@pytest.mark.parametrize("value", ["", None, 7, b"token", "\ud800", "x" * (2**20 + 1)])
def test_what_is_no_secret(value: Any) -> None:
    """A secret is non-empty text of at most 1 MiB."""
    refused(valid.secret, value, "refresh_token")


def test_the_longest_secret() -> None:
    """Exactly 1 MiB is let in."""
    assert len(valid.secret("x" * 2**20, "refresh_token")) == 2**20


def test_a_secret_that_is_not_sealed_holds_no_nul() -> None:
    """A text column of PostgreSQL holds no NUL; a sealed one may."""
    assert valid.secret("a\x00b", "refresh_token") == "a\x00b"
    refused(valid.optional_plain_secret, "a\x00b", "idp_access_token")


@pytest.mark.parametrize("value", ["", "flow3", "HYBRID", None, 1, ["hybrid"]])
def test_what_is_no_flow_type(value: Any) -> None:
    """Only the three flows that the releases know."""
    refused(valid.flow_type, value)


@pytest.mark.parametrize("value", [0, 1, None, "true"])
def test_what_is_no_flag(value: Any) -> None:
    """A flag is True or False."""
    refused(valid.flag, value, "is_provisioning")


@pytest.mark.parametrize("value", [0, -1, 11, 1.0, True, None, "5"])
def test_what_is_no_count(value: Any) -> None:
    """A count is an int in its range."""
    refused(valid.count, value, "limit", 10)


@pytest.mark.parametrize(
    ("check", "arguments"),
    [
        (valid.user_id, (SENTINEL + "\x00",)),
        (valid.text, (SENTINEL + "\ud800", "state")),
        (valid.secret, (SENTINEL + "\ud800", "refresh_token")),
        (valid.secret, (SENTINEL * 100_000, "refresh_token")),
        (valid.scopes, ([SENTINEL + " x"],)),
        (valid.scopes, ([SENTINEL + "\ud800"],)),
        (valid.profile, ({SENTINEL: {SENTINEL}},)),
        (valid.seconds, (SENTINEL, "expires_at")),
        (valid.flow_type, (SENTINEL,)),
    ],
)
def test_a_refusal_never_repeats_the_value(
    check: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """Neither message nor remedy nor traceback shows what was refused: it may be a secret."""
    error = refused(check, *arguments)
    assert SENTINEL not in "".join(traceback.format_exception(error)) + error.remedy
