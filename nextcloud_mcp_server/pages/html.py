"""HTML in which every value is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from string import Formatter
from typing import Any, Final


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


class _Escaping(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        text: str = super().format_field(value, format_spec)
        return text if isinstance(value, Html) else escape(text)


_FORMATTER: Final = _Escaping()


def html(template: str, /, **values: Any) -> Html:
    """Return ``template`` with each ``{name}`` replaced, escaped unless it is :class:`Html`.

    Values belong between tags or in quoted attributes. An address from outside must be checked
    before: ``javascript:`` needs no character that is escaped.
    """
    return Html(_FORMATTER.vformat(template, (), values))


def joined(parts: Iterable[Html]) -> Html:
    """Return the parts one after the other."""
    return Html("\n".join(parts))
