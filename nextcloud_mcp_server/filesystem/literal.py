"""Recognize a path that nobody means literally: a shell, a template or an editor left it so."""

from __future__ import annotations

import re
from typing import Final

from nextcloud_mcp_server.errors import invisible
from nextcloud_mcp_server.filesystem.paths import is_url

#: Quotation marks, also those that a word processor makes.
_QUOTES: Final = (
    "\"'`\u00b4\u00ab\u00bb\u2039\u203a\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u201b\uff02\uff07"
)

#: What a program that has no value may write in its place.
_NO_VALUE: Final = frozenset({"none", "null", "nil", "undefined"})

#: A path of these needs no pattern. Patterns take long to compile.
_ORDINARY: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@")

#: $HOME, ${HOME}, $(pwd), $1, $@; %HOME%, %(here)s, %h/; <path>; what a template was to fill in.
_VARIABLE: Final = (
    r"\$\{?[A-Za-z_]\w*\}?|\$[({]|\$[0-9@*?!]|\{\{|\{%|#\{|`"
    r"|%[A-Za-z_]\w*%|%\(\w+\)s|^%[A-Za-z](?=/)|<[^<>]*>"
)

#: NAME=, export NAME=, NAME: and a lone = at the beginning.
_ASSIGNMENT: Final = (
    r"(?:(?:export|set)\s+)?(?:[A-Z_][A-Z0-9_]+(?:\s*=|:\s)|[A-Za-z_]\w*\s*=\s*[\"'/~])|="
)

#: What may follow an assignment, and belongs to its value.
_OPENING: Final = " \"'/~"


def not_literal(text: str) -> str:
    """Return what a path or URL contains that a name has by mistake only; empty if nothing.

    It continues a sentence that begins with the name of the setting, and does not have the
    value, which may hold a password.
    """
    ordinary = _ORDINARY.issuperset(text) and text[-1:] != "/" and text.lower() not in _NO_VALUE
    return "" if ordinary else _mistake(text)


def _mistake(text: str) -> str:
    """Return the first mistake that is found."""
    if "\r" in text:
        return "has a carriage return in it (of a file with the line ends of Windows)"
    if text.strip("\n") != text:
        return "begins or ends with a line break"
    if text.strip(" \t") != text:
        return "begins or ends with a blank"
    if character := invisible(text.replace("\n", "")):
        return f"contains the invisible character {character}"
    if "\ufffd" in text:
        return "contains U+FFFD, which stands for a character that could not be decoded"
    return _around(text) or _inside(text)


def _around(text: str) -> str:
    """Return what stands around a path."""
    name = text[text.rstrip("/").rfind("/") + 1 :]
    if {text[0], text[-1], name[:1]} & set(_QUOTES):
        return "is in quotation marks"
    if found := re.match(_ASSIGNMENT, text):
        return f"begins with {found[0].rstrip(_OPENING)[:40]}, which is no part of a path"
    if text[-1] in ";,":
        return f"ends with {text[-1]}"
    if text.endswith("/"):
        return "ends with a slash, as the path of a folder does"
    if text.lower() in _NO_VALUE:
        return f"is {text}, which stands for no value"
    return ""


def _inside(text: str) -> str:
    """Return what stands inside a path."""
    if re.search(r"\s#", text):
        return "has a comment in it"
    # In a URL a percent sign begins an escape.
    unescaped = re.sub("%(?=[0-9A-Fa-f]{2})", "", text) if is_url(text) else text
    if found := re.search(_VARIABLE, unescaped):
        return f"contains {found[0][:40]}, which nothing has replaced"
    if re.match(r"[A-Za-z]:[\\/]", text):
        return f"begins with {text[:2]}, a drive of Windows"
    if "\\" in text:
        return "contains a backslash"
    if re.search(r"/\s|\s/", text):
        return "has a name in it that begins or ends with a blank"
    return ""
