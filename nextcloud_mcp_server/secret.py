"""Values that no traceback shows: their ``repr()`` and ``str()`` hide them.

A traceback with locals, as error trackers and debuggers render it, has the repr of every variable
of every frame. So each function that receives a secret gives it one of these types first.
"""

from __future__ import annotations

from typing import Any, NoReturn

_HIDDEN = "<secret>"


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
    """A dictionary that is hidden."""

    __slots__ = ()

    def __repr__(self) -> str:
        return _HIDDEN


def hidden(value: Any) -> Any:
    """Return a text, bytes, a dictionary or a list of them hidden; anything else as it is."""
    if isinstance(value, str):
        # One that is its own type keeps it: the hash of an id.
        return Secret(value) if type(value) is str else value
    if isinstance(value, bytes):
        return SecretBytes(value)
    if type(value) is dict:
        return SecretDict(value)
    if isinstance(value, list | tuple):
        return tuple(map(hidden, value))
    return value
