"""Values that no traceback shows."""

from __future__ import annotations

import copy
import enum
import pickle
from collections import OrderedDict, UserString, defaultdict, deque
from types import MappingProxyType, SimpleNamespace
from typing import Any, Final

import pytest

from nextcloud_mcp_server.crypto.binding import hashed
from nextcloud_mcp_server.secret import Secret, SecretDict, SecretList, SecretTuple, hidden

PLANTED: Final = "a planted secret"


class _Text(str):
    """A text of another type."""

    __slots__ = ()


class _Name(str, enum.Enum):  # noqa: UP042 - whose str() is another
    """A text of an enumeration."""

    ONE = PLANTED


VALUES: Final[tuple[Any, ...]] = (
    *(PLANTED, _Text(PLANTED), _Name.ONE, PLANTED.encode(), bytearray(PLANTED.encode())),
    *(memoryview(PLANTED.encode()), UserString(PLANTED), SimpleNamespace(token=PLANTED)),
    *({PLANTED: 1}, {"a": PLANTED}, OrderedDict(a=PLANTED), MappingProxyType({"a": PLANTED})),
    *(defaultdict(str, a=PLANTED), [PLANTED], (PLANTED,), [[{"a": PLANTED}]], deque([PLANTED])),
    *({PLANTED}, frozenset({PLANTED}), {PLANTED: 1}.keys(), iter([PLANTED]), ValueError(PLANTED)),
)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_type_is_hidden(value: Any) -> None:
    """Neither repr() nor str() of a hidden value shows it, whatever its type is."""
    found = hidden(value)
    assert PLANTED not in repr(found) + str(found) + f"{found}" + f"{found!r:.500}"
    assert hidden(found) is found or found == hidden(found)


def test_what_is_no_secret_is_kept() -> None:
    """Numbers, None and the hash of an id are what they were."""
    for value in (None, True, 1, 1.5, hashed(PLANTED)):
        assert hidden(value) is value


def test_a_hidden_text_has_the_characters_of_any_text() -> None:
    """A text of an enumeration is its value, as it is when it is stored."""
    for value in (PLANTED, _Text(PLANTED), _Name.ONE):
        assert type(hidden(value)) is Secret
        assert hidden(value).reveal() == PLANTED
    assert hidden([PLANTED]) == (PLANTED,)


@pytest.mark.parametrize("kind", [SecretDict, SecretTuple, SecretList])
def test_a_container_is_not_copied_where_it_shows(kind: type) -> None:
    """It is neither pickled nor copied by the module of that name."""
    for work in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled or copied"):
            work(kind())


def test_the_views_and_copies_of_a_dictionary_are_hidden() -> None:
    """What is made of it shows no more than it does itself."""
    made = SecretDict(a=PLANTED)
    for found in (made.copy(), made | {"b": 1}, {"b": 1} | made, made.items(), made.values()):
        assert PLANTED not in repr(found)
    assert PLANTED not in repr(SecretDict({PLANTED: 1}).keys())
    assert dict(made) == {"a": PLANTED} == {**made} == dict(made.items())
    assert made.copy() == made
    assert list(made.values()) == [PLANTED]


def test_the_slice_of_a_tuple_is_hidden() -> None:
    """A part of a row is a row."""
    row = SecretTuple((1, PLANTED))
    assert PLANTED not in repr(row[1:]) + repr(row)
    assert row[1] == PLANTED
