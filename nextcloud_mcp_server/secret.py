"""Values that no traceback shows: their ``repr()`` and ``str()`` hide them.

A traceback with locals, as error trackers and debuggers render it, has the repr of every variable
of every frame. So each function that receives a secret gives it one of these types first.
"""

from __future__ import annotations

from collections import UserString
from collections.abc import ItemsView, KeysView, Mapping, Sequence, ValuesView
from typing import Any, Final, NoReturn

_HIDDEN: Final = "<secret>"

#: Sequences whose items are not values of their own.
_WHOLE: Final = (bytearray, memoryview, UserString)


class Shown(str):
    """A text that tells nothing of a secret, such as the hash of an id."""

    __slots__ = ()


class Secret(str):
    """A text that is hidden. It is compared, measured and bound to statements like any other."""

    __slots__ = ()

    def reveal(self) -> str:
        """Return it as a plain text, for a result."""
        return str.__str__(self)

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> SecretBytes:
        """Return its bytes, hidden too."""
        return SecretBytes(str.encode(self, encoding, errors))

    def __repr__(self) -> str:
        return _HIDDEN

    def __str__(self) -> str:
        return _HIDDEN

    def __format__(self, _: str) -> str:
        return _HIDDEN

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled or copied: that would expose it")


class SecretBytes(bytes):
    """Bytes that are hidden."""

    __slots__ = ()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> Secret:
        """Return its text, hidden too."""
        return Secret(bytes.decode(self, encoding, errors))

    def __repr__(self) -> str:
        return _HIDDEN

    def __str__(self) -> str:
        return _HIDDEN

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled or copied: that would expose it")


class SecretDict(dict[str, Any]):
    """A dictionary that is hidden. So are its views and copies, but not each of its values."""

    __slots__ = ()

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        """Return a view of the keys, hidden too."""
        return KeysView(self)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """Return a view of the values, hidden too."""
        return ValuesView(self)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """Return a view of the items, hidden too."""
        return ItemsView(self)

    def copy(self) -> SecretDict:
        """Return a shallow copy, hidden too."""
        return SecretDict(self)

    def __or__(self, other: Mapping[str, Any]) -> SecretDict:  # type: ignore[override]
        return SecretDict({**self, **other})

    def __ror__(self, other: Mapping[str, Any]) -> SecretDict:  # type: ignore[override]
        return SecretDict({**other, **self})

    def __repr__(self) -> str:
        return _HIDDEN

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SecretDict is not pickled or copied: that would expose it")


class SecretTuple(tuple[Any, ...]):
    """A tuple that is hidden, such as a row. So are its slices, but not each of its values."""

    __slots__ = ()

    def __getitem__(self, at: Any) -> Any:
        found = tuple.__getitem__(self, at)
        return SecretTuple(found) if isinstance(at, slice) else found

    def __repr__(self) -> str:
        return _HIDDEN

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SecretTuple is not pickled or copied: that would expose it")


class SecretList(list[Any]):
    """A list that is hidden, but not each of its values."""

    __slots__ = ()

    def __repr__(self) -> str:
        return _HIDDEN

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SecretList is not pickled or copied: that would expose it")


class Hidden:
    """What is left of a value of a type that no secret has. Every check refuses it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return _HIDDEN


def hidden(value: Any) -> Any:
    """Return a value hidden, unless it is a number, None or :class:`Shown`.

    A text, bytes or a dictionary of any subclass becomes :class:`Secret`, :class:`SecretBytes` or
    :class:`SecretDict`; a list or another sequence a tuple of hidden values; anything else
    :class:`Hidden`, without its content.
    """
    # The usual ones first: each row that is read comes here.
    if type(value) is str:
        return Secret(value)
    if value is None or isinstance(value, _KEPT):
        return value
    if isinstance(value, str):
        # Not str(): an Enum has another one.
        return Secret(str.__str__(value))
    return SecretBytes(value) if isinstance(value, bytes) else _hidden_container(value)


def _hidden_container(value: object) -> object:
    if isinstance(value, dict):
        return SecretDict(value)
    if isinstance(value, Sequence) and not isinstance(value, _WHOLE):
        return tuple(map(hidden, value))
    return Hidden()


_KEPT: Final = (
    *(bool, int, float),
    *(Secret, SecretBytes, SecretDict, SecretTuple, SecretList, Shown, Hidden),
)
