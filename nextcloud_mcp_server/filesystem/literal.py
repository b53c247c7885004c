"""Recognize a path that nobody means literally: a shell, a template or an editor left it so."""

from __future__ import annotations

import re
from typing import Final

from nextcloud_mcp_server.errors import invisible, legible
from nextcloud_mcp_server.filesystem.paths import is_url

#: Quotation marks, also those that a word processor makes.
_QUOTES: Final = (
    "\"'`\u00b4\u00ab\u00bb\u2039\u203a\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u201b\uff02\uff07"
)

#: What a program that has no value may write in its place.
_NO_VALUE: Final = frozenset({"none", "null", "nil", "undefined"})

#: Switches, and what an example has in place of a path.
_NO_PATH: Final = frozenset(
    {"true", "false", "yes", "no", "on", "off", "changeme", "change_me", "change-me", "-"}
)

#: A path of these needs no pattern. Patterns take long to compile.
_ORDINARY: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@")

#: $HOME, ${HOME}, $(pwd), $1, $@; %HOME%, %(here)s, %h/; <path>; what a template was to fill in.
_VARIABLE: Final = (
    r"\$\{?[A-Za-z_]\w*\}?|\$[({]|\$[0-9@*?!]|\{\{|\{%|#\{|`"
    r"|%[A-Za-z_]\w*%|%\(\w+\)s|^%[A-Za-z](?=/)|<[^<>]*>"
)

#: Of ordinary characters too, and nevertheless not meant: @PATH@, __PATH__, YOUR_PATH, /.../t.db.
_SIGNS: Final = ("@", "__", "YOUR", "...")

#: What a name begins with, or is, that a template or an example was to fill in.
_PLACEHOLDER: Final = (
    r"(?:^|/)(\{[A-Za-z_]\w*\}|@[A-Za-z_]\w*@|__[A-Z][A-Z0-9_]*__(?=[./]|$)"
    r"|(?:\[[A-Za-z_][\w -]*\]|YOUR[_-][A-Z_-]+|\.\.\.|\u2026)(?=/|$))|(\*)"
    r"|^(!\w+(?=\s)|(?:vault|env|ssm|secret|arn|op|sops):)"
)

#: A sentence for each pattern that may stand in a path.
_PATTERNS: Final = (
    (r"^(?i:sqlite(?:\+\w+)?:)(?!//)", "begins with {}, and a URL has three slashes after it"),
    (r"^--\w*", "begins with {}, as an option does"),
    (r"^[&<>]|\|", "contains {}, which is for a shell"),
    (r"^/?[A-Za-z]:(?=[\\/])", "begins with {}, a drive of Windows"),
    (r"\\", "contains a backslash"),
    (r"/\s|\s/", "has a name in it that begins or ends with a blank"),
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
    ordinary = (
        _ORDINARY.issuperset(text)
        and text[-1:] != "/"
        and text[:1] != "-"
        and text.lower() not in _NO_VALUE | _NO_PATH
        and not any(sign in text for sign in _SIGNS)
    )
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
    no_break = "contains the no-break space U+00A0" if "\u00a0" in legible(text) else ""
    return no_break or _around(text) or _inside(text)


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
    return f"is {text}, which is no path" if text.lower() in _NO_PATH else ""


def _inside(text: str) -> str:
    """Return what stands inside a path."""
    if re.search(r"\s#|\.(?:db|sqlite3?)#", text):
        return "has a comment in it"
    # In a URL a percent sign begins an escape.
    unescaped = re.sub("%(?=[0-9A-Fa-f]{2})", "", text) if is_url(text) else text
    if found := re.search(_VARIABLE, unescaped):
        return f"contains {found[0][:40]}, which nothing has replaced"
    if found := re.search(_PLACEHOLDER, text):
        return f"contains {found[0].lstrip('/')[:40]}, which nothing has replaced"
    for pattern, sentence in _PATTERNS:
        if found := re.search(pattern, text):
            return sentence.format(found[0][:40])
    return _of_a_url(text)


def _of_a_url(text: str) -> str:
    """Return what only a URL has, in a path; or what no URL has."""
    if not is_url(text) and not text.startswith("file:"):
        found = re.search(r"\?\w+=(?=[^/]*$)", text)
        return f"contains {found[0][:40]}, a parameter of a URL" if found else ""
    found = re.search("%(?![0-9A-Fa-f]{2})[0-9A-Za-z]{2}", text)
    return f"contains {found[0]}, which is no escape" if found else ""
