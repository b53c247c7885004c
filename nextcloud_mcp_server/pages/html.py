"""HTML in which every value is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from string import Formatter
from typing import Any, Final

from nextcloud_mcp_server.secret import Secret, hidden


class Html(str):
    """Text that is HTML already. Its repr hides it: a page has the tokens of its forms."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<html>"


class _Escaping(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, Secret):
            return escape(value.reveal())
        if isinstance(value, Html):
            return str.__format__(value, format_spec)
        return escape(super().format_field(value, format_spec))


_FORMATTER: Final = _Escaping()


def html(template: str, /, **values: Any) -> Html:
    """Return ``template`` with each ``{name}`` replaced, escaped unless it is :class:`Html`.

    A :class:`~nextcloud_mcp_server.secret.Secret` is revealed: the page is where it belongs.

    Values belong between tags or in quoted attributes. An address from outside must be checked
    before: ``javascript:`` needs no character that is escaped.
    """
    values = hidden(values)
    return Html(_FORMATTER.vformat(template, (), values))


def joined(parts: Iterable[Html]) -> Html:
    """Return the parts one after the other."""
    return Html("\n".join(parts))
