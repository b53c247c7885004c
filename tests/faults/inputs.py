"""Values of every kind, good and bad, from a source of chance."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final


class Text(str):
    """A text of a class of its own."""

    __slots__ = ()


_BAD_TEXTS: Final[tuple[Any, ...]] = (
    *("", "\0", "a\0b", "\x1b[2J", "line\nbreak", "\x7f", "\x85", "\ud800", "a\udfff"),
    *("x" * 256, "ü" * 128, "x" * 65_537, "🔑" * 16_385, None, 0, 1.5, b"bytes", ["a"], object()),
)
_GOOD_TEXTS: Final[tuple[Any, ...]] = (
    *(
        "alice",
        "Alice",
        "bob@example.org",
        "Ünï-🙂",
        "e\u0301",
        "é",
        "%2e%2e",
        "'; DROP TABLE x;--",
    ),
    *(
        "a b",
        " a ",
        "x" * 255,
        "🔑" * 63,
        "\u202eabc",
        "\ufeff",
        "NULL",
        "0",
        "1e5",
        "{}",
        "\u2028",
    ),
    Text("of a class"),
)
_BAD_SECRETS: Final[tuple[Any, ...]] = (
    "",
    "\ud800",
    "x" * 1_048_577,
    "ü" * 524_289,
    None,
    7,
    b"secret",
    ("a",),
)
_GOOD_SECRETS: Final[tuple[Any, ...]] = (
    "rt",
    "\0",
    "line\nbreak",
    "🔑" * 99,
    " ",
    "x" * 65_537,
    "gAAAAA",
    "\x1b",
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
    [],
    ["openid"],
    ("a", "b"),
    ["é", "🔑"],
    ["a", "a"],
    deque(["x"]),
    ["%", "'"],
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
    """A good value, or now and then a bad one."""
    return lambda chance: chance.choice(good if chance.random() < 0.93 else bad)


def text(chance: random.Random) -> Any:
    """A text: short or long, odd or forbidden, or no text at all."""
    if chance.random() < 0.3:
        # Whatever characters there are, the forbidden ones among them.
        return "".join(chr(chance.randrange(0x110000)) for _ in range(chance.randrange(1, 9)))
    return one_of(_GOOD_TEXTS, _BAD_TEXTS)(chance)


def profile(chance: random.Random) -> Any:
    """A dict that JSON can hold, or one that it cannot."""
    if chance.random() < 0.1:
        # About as deep as the interpreter's stack allows.
        return _nested(chance.randrange(100, 1200))
    return one_of(_GOOD_PROFILES, _BAD_PROFILES)(chance)


def or_none(value: Value) -> Value:
    """``value``, left out half of the time."""
    return lambda chance: value(chance) if chance.random() < 0.5 else None


secret: Final = one_of(_GOOD_SECRETS, _BAD_SECRETS)
seconds: Final = one_of(_GOOD_SECONDS, _BAD_SECONDS)
scopes: Final = one_of(_GOOD_SCOPES, _BAD_SCOPES)
flow: Final = one_of(("hybrid", "flow1", "flow2"), ("", "flow3", None, 1, "HYBRID", ["hybrid"]))
flag: Final = one_of((True, False), _BAD_FLAGS)
uris: Final = one_of(_GOOD_SCOPES, ("x", [""], ["\ud800"], [1], None, ["\n"]))
