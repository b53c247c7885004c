"""Generated calls of every public method of the store, with valid and invalid arguments."""

from __future__ import annotations

import inspect
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage


class Text(str):
    """A subclass of str."""

    __slots__ = ()


_BAD_TEXTS: Final[tuple[Any, ...]] = (
    *("", "\0", "a\0b", "\x1b[2J", "line\nbreak", "\x7f", "\x85", "\ud800", "a\udfff"),
    *("x" * 256, "ü" * 128, "x" * 65_537, "🔑" * 16_385, None, 0, 1.5, b"bytes", ["a"], object()),
)
_GOOD_TEXTS: Final[tuple[Any, ...]] = (
    *("alice", "Alice", "bob@example.org", "Ünï-🙂", "e\u0301", "é", "%2e%2e", " a "),
    *("'; DROP TABLE x;--", "a b", "x" * 255, "🔑" * 63, "\u202eabc", "\ufeff", "NULL", "0"),
    *("1e5", "{}", "\u2028", Text("of a class")),
)
_BAD_SECRETS: Final[tuple[Any, ...]] = (
    *("", "\ud800", "x" * 1_048_577, "ü" * 524_289, None, 7, b"secret", ("a",)),
)
_GOOD_SECRETS: Final[tuple[Any, ...]] = (
    *("rt", "\0", "line\nbreak", "🔑" * 99, " ", "x" * 65_537, "gAAAAA", "\x1b"),
)
_BAD_SECONDS: Final[tuple[Any, ...]] = (
    *(-1, 253_402_300_800, 2**63, -(2**63) - 1, 10**400, True, 1.0, math.nan, math.inf),
    *("5", b"5", Decimal(5), [], object()),
)
_GOOD_SECONDS: Final[tuple[Any, ...]] = (0, 1, 1_800_000_000, 2**31, 2**32, 253_402_300_799)
_BAD_SCOPES: Final[tuple[Any, ...]] = (
    *("openid", b"x", [""], ["a b"], ["a\n"], ["\u2003"], ["a", None], [1], {"a": 1}, {"a"}),
    *(iter(()), ["\ud800"], ["x" * 65_537], 5, range(3), [b"a"], ["\x85"]),
)
_GOOD_SCOPES: Final[tuple[Any, ...]] = (
    *([], ["openid"], ("a", "b"), ["é", "🔑"], ["a", "a"], deque(["x"]), ["%", "'"]),
)
_BAD_FLAGS: Final[tuple[Any, ...]] = (0, 1, None, "", "true", [])


def _nested(depth: int, leaf: Any = 1) -> dict[str, Any]:
    for _ in range(depth):
        leaf = {"a": leaf}
    return {"a": leaf}


def _cycle() -> dict[str, Any]:
    one: dict[str, Any] = {}
    one["self"] = one
    return one


_BAD_PROFILES: Final[tuple[Any, ...]] = (
    *(None, [], "text", MappingProxyType({"a": 1}), {1: "a"}, {"a": {2: 3}}, {"a": math.nan}),
    *({"a": math.inf}, {"a": b"x"}, {"a": {1, 2}}, {"a": object()}, _cycle(), _nested(50_000)),
    *({"a": "x" * 1_048_577}, {"a": 10**5_000}, {None: 1}),
)
_GOOD_PROFILES: Final[tuple[Any, ...]] = (
    *({}, {"sub": "alice"}, {"": None}, {"a": [1, 2.5, True, None, "x\0y"]}, {"ü": "\ud800"}),
    *({"a": 10**300}, {"a": -0.0}, _nested(50), {"a": {"b": [{"c": []}]}}, {"a\n": 1e-320}),
)

Value = Callable[[random.Random], Any]


def one_of(good: tuple[Any, ...], bad: tuple[Any, ...]) -> Value:
    """Return a generator of good values, and of a bad one in 7 % of the calls."""
    return lambda chance: chance.choice(good if chance.random() < 0.93 else bad)


def text(chance: random.Random) -> Any:
    """Generate a text: short or long, valid or not, or no text."""
    if chance.random() < 0.3:
        # Any characters, forbidden ones included.
        return "".join(chr(chance.randrange(0x110000)) for _ in range(chance.randrange(1, 9)))
    return one_of(_GOOD_TEXTS, _BAD_TEXTS)(chance)


def profile(chance: random.Random) -> Any:
    """Generate a dict that JSON can represent or not."""
    if chance.random() < 0.1:
        # Near the recursion limit of the interpreter.
        return _nested(chance.randrange(100, 1200))
    return one_of(_GOOD_PROFILES, _BAD_PROFILES)(chance)


def or_none(value: Value) -> Value:
    """Return a generator of ``value``, or of None in half of the calls."""
    return lambda chance: value(chance) if chance.random() < 0.5 else None


_SECRETS: Final = (
    *("refresh_token", "password", "client_secret", "registration_access_token", "poll_token"),
    *("idp_access_token", "idp_refresh_token"),
)
_scopes: Final = one_of(_GOOD_SCOPES, _BAD_SCOPES)

#: The generator of an argument by its name, else by its type.
_BY_NAME: Final[Mapping[str, Value]] = {
    **dict.fromkeys(_SECRETS, one_of(_GOOD_SECRETS, _BAD_SECRETS)),
    **dict.fromkeys(
        ("session_id", "mcp_authorization_code"),
        one_of(tuple(f"{text}{'0' * 22}" for text in _GOOD_TEXTS if len(text) < 99), _BAD_TEXTS),
    ),
    "flow_type": one_of(("hybrid", "flow1", "flow2"), ("", "flow3", None, 1, "HYBRID", ["hybrid"])),
    "limit": one_of((1, 5, 10_000), (0, -1, 10_001, True, 1.0, None, "5", 2**70)),
    "redirect_uris": one_of(_GOOD_SCOPES, ("x", [""], ["\ud800"], [1], None, ["\n"])),
}
_BY_TYPE: Final[Mapping[str, Value]] = {
    "str": text,
    "int": one_of(_GOOD_SECONDS, _BAD_SECONDS),
    "bool": one_of((True, False), _BAD_FLAGS),
    "Sequence[str]": _scopes,
    "Mapping[str, Any]": profile,
}

#: The method that reads the values of another back, and the argument that it searches by.
READS: Final[Mapping[str, tuple[str, str | None]]] = {
    "store_refresh_token": ("get_refresh_token", "user_id"),
    "store_user_profile": ("profiles.get", "user_id"),
    "profiles.store": ("profiles.get", "user_id"),
    "app_passwords.store": ("app_passwords.get", "user_id"),
    "oauth_clients.store": ("oauth_clients.get", None),
    "oauth_sessions.create": ("oauth_sessions.get", "session_id"),
    "oauth_sessions.update": ("oauth_sessions.get", "session_id"),
    "login_flows.store": ("login_flows.get", "user_id"),
    "browser_sessions.create": ("browser_sessions.get", "session_id"),
}

#: Arguments for which None is replaced or ignored, so that it is not read back.
_IGNORED_NONE: Final = {
    ("store_refresh_token", "provisioned_at"),
    ("oauth_clients.store", "client_id_issued_at"),
}
#: Arguments of which an empty list is stored as None.
_NONE_IF_EMPTY: Final = {
    ("store_refresh_token", "scopes"),
    ("login_flows.store", "requested_scopes"),
}


@dataclass(frozen=True)
class Method:
    """One public method of the store, with the generator of each argument."""

    path: str
    takes: Mapping[str, Value]

    def is_ignored(self, name: str, value: object) -> bool:
        """Return whether ``value`` is not stored."""
        partial = self.path == "oauth_sessions.update" or (self.path, name) in _IGNORED_NONE
        return value is None and partial

    def is_none_if_empty(self, name: str) -> bool:
        """Return whether an empty list is stored as None."""
        return (self.path, name) in _NONE_IF_EMPTY


def _generator(parameter: inspect.Parameter) -> Value:
    kind, _, none = str(parameter.annotation).partition(" | ")
    value = _BY_NAME.get(parameter.name) or _BY_TYPE[kind]
    return or_none(value) if none else value


def methods(storage: RefreshTokenStorage) -> Iterator[Method]:
    """Yield every public method of the store and of its parts."""
    for name in (n for n in dir(storage) if not n.startswith("_") and n not in _LIFE):
        member = getattr(storage, name)
        inner = [f"{name}.{n}" for n in dir(member) if not n.startswith("_")]
        for path in [name, *inner]:
            method = member if path == name else getattr(member, path.partition(".")[2])
            if inspect.iscoroutinefunction(method) and path not in _OF_RESULTS:
                parameters = inspect.signature(method).parameters
                yield Method(path, {n: _generator(p) for n, p in parameters.items()})


_LIFE: Final = {"initialize", "close", "mcp_clients", "mcp_grants", "mcp_tokens"}
#: These take a result of the store.
_OF_RESULTS: Final = {"app_passwords.refuse", "app_passwords.touch"}
