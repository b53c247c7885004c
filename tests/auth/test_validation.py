"""Which values are accepted, as properties."""

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
from tests.support.errors import refuses

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
    """Return the error that the check must raise."""
    with refuses("bad-input") as caught:
        check(*arguments)
    assert caught.value.__context__ is None, "the error of a codec contains the value"
    return caught.value


def ok_user_id(value: str) -> bool:
    """Check the rule in another way."""
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
    """1 to 255 bytes of UTF-8 without control characters are accepted unchanged; nothing else."""
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
def test_other_lists_of_scopes_are_refused(value: Any) -> None:
    """A single text is not a list, and neither is a set."""
    refused(valid.scopes, value)


@given(st.dictionaries(st.text(), json_values))
@example({})
@example({"sub": "u-\U0001f642", "nested": {"a": [1, 2.5, None, True]}})
def test_profiles(value: dict[str, Any]) -> None:
    """A dict that JSON can represent is stored unchanged."""
    assert json.loads(valid.profile(value)) == value


def cycle() -> dict[str, Any]:
    """Return a dict that contains itself."""
    value: dict[str, Any] = {}
    value["self"] = value
    return value


def deep() -> dict[str, Any]:
    """Return a dict that is deeper than the stack of the interpreter."""
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
def test_other_profiles_are_refused(make: Callable[[], Any]) -> None:
    """NaN, bytes, keys that are not text, cycles and other types are refused."""
    refused(valid.profile, make())


@pytest.mark.parametrize("value", ["", None, 7, b"token", "\ud800", "x" * (2**20 + 1)])
def test_other_secrets_are_refused(value: Any) -> None:
    """A secret is text of at most 1 MiB, not empty."""
    refused(valid.secret, value, "refresh_token")


def test_the_longest_secret() -> None:
    """Exactly 1 MiB is accepted."""
    assert len(valid.secret("x" * 2**20, "refresh_token")) == 2**20


def test_a_secret_may_have_a_nul() -> None:
    """A text column of PostgreSQL allows no NUL, and a secret is encrypted before it gets there."""
    assert valid.secret("a\x00b", "refresh_token") == "a\x00b"
    assert valid.optional_secret("a\x00b", "idp_access_token") == "a\x00b"
    assert valid.optional_secret(None, "idp_access_token") is None


@pytest.mark.parametrize("value", ["", "x" * 21, "x" * 21 + "\x00", None, 7, b"x" * 22])
def test_other_credentials_are_refused(value: Any) -> None:
    """An id that must be unguessable has at least 22 characters: 128 bits in base64."""
    refused(valid.credential, value, "session_id")
    assert valid.credential("x" * 22, "session_id") == "x" * 22


@pytest.mark.parametrize("value", ["", "flow3", "HYBRID", None, 1, ["hybrid"]])
def test_other_flow_types_are_refused(value: Any) -> None:
    """Only the three flow types of the releases are accepted."""
    refused(valid.flow_type, value)


@pytest.mark.parametrize("value", [0, 1, -1, 11, 1.0, None, "5"])
def test_other_flags_and_counts_are_refused(value: Any) -> None:
    """A flag is True or False, and a count is an int in its range."""
    refused(valid.flag, value, "is_provisioning")
    refused(valid.count, True if value == 1 else value, "limit", 10)


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
        (valid.credential, (SENTINEL, "session_id")),
    ],
)
def test_an_error_never_contains_the_value(
    check: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """Message, remedy and traceback do not contain the value, which may be a secret."""
    error = refused(check, *arguments)
    assert SENTINEL not in "".join(traceback.format_exception(error)) + error.remedy
