"""Revisions as people type them, in a command or by hand in the version row."""

from __future__ import annotations

import re
from typing import Final

from nextcloud_mcp_server.backends.base import Database
from nextcloud_mcp_server.errors import TokenStorageError, for_shell, shortened, visible
from nextcloud_mcp_server.schema.history import BASE, History

#: An id as a person may type it: 5, '005 ', v005, 0000005; the number 5.0; what Alembic prints,
#: 005 (head); the name of the file of a revision, and a line in it.
_TYPED_ID: Final = re.compile(
    r"[\s\"'`;,#=:]*(?:\S*/)?(?:v|ver|version|rev|revision(?:\s*id)?)?[\s\"'`;,#:=]*"
    r"(?:[0-9]{8}_[0-9]{4}_)?0*([0-9]{1,4})"
    r"(?:\.0|_\w*)?(?:\.py)?(?:\s*\(head\))?[\s\"'`;,]*",
    re.IGNORECASE,
)

#: Words of Alembic and SQL that are no id, and a number in another base.
_TYPED_WORD: Final = re.compile(
    r"[\s\"'`;,<(]*(?:heads?|base|latest|newest|current|null|none|nil|undefined|true|false"
    r"|0x[0-9a-f]{1,3})[\s\"'`;,>)]*",
    re.IGNORECASE,
)

#: The length of the longest text that a person types as an id.
_LONGEST: Final = 200


def typed_revision(text: str, history: History) -> str:
    """Return the id that ``text`` means, as ``4`` means ``004``; empty if it is none."""
    text = _plain(text)
    typed = _TYPED_ID.fullmatch(text) if len(text) <= _LONGEST else None
    revision = f"{int(typed[1]):03d}" if typed else ""
    return revision if revision in history else ""


def typed_revisions(text: str, history: History) -> frozenset[str] | None:
    """Return the ids that a text means which a person typed: one, several (``005,006``) or none.

    None if no person has typed it: a newer release may have written it.
    """
    parts = [part for part in re.split(r"[,;|&+\n]", text[:_LONGEST]) if _plain(part).strip()]
    known = {typed_revision(part, history) for part in parts}
    if len(text) <= _LONGEST and known and "" not in known:
        return frozenset(known)
    if revision := typed_revision(text, history):
        return frozenset({revision})
    return frozenset() if _TYPED_WORD.fullmatch(_plain(text[:_LONGEST])) else None


def _plain(text: str) -> str:
    """Return ``text`` without invisible characters, with the digits of ASCII."""
    text = visible(text)
    if not text.isascii():
        import unicodedata  # noqa: PLC0415 - rarely needed

        text = "".join(str(unicodedata.digit(one)) if one.isdigit() else one for one in text)
    # The letter O is beside the zero.
    if re.fullmatch("(?i)[0-9o]{2,3}", text.strip()) and not text.strip().isalpha():
        text = text.lower().replace("o", "0")
    return text


def unknown_target(
    target: str, history: History, database: Database | None = None
) -> TokenStorageError:
    """Return the error for a revision that this program does not have.

    With ``database``, the command takes one, and the target may be the path of another.
    """
    # From Python it can be of any type.
    text = str(target)
    meant = _probable(text, history)
    option = "" if database is None else f" {database.option}"
    remedy = f"List the revisions: nextcloud-mcp-server db history{option}"
    if database is not None and ("/" in text or text.endswith((".db", ".sqlite", ".sqlite3"))):
        remedy = f"Name a database with -d: -d {for_shell(shortened(text))}"
    return TokenStorageError(
        f"There is no revision {shortened(text)}; the newest is {history.head}."
        f"{f' Did you mean {meant}?' if meant else ''}",
        code="unknown-revision",
        remedy=remedy,
    )


def _probable(text: str, history: History) -> str:
    """Return the target that ``text`` probably is; empty if that is unknown."""
    word = visible(text).strip().lower()
    if word in {"head", "heads", BASE}:
        return word.removesuffix("s")
    # A word processor makes a dash of a minus.
    steps = re.fullmatch("[\u2010-\u2015\u2212]([0-9]{1,4})", word)
    return f"-{steps[1]}" if steps else typed_revision(text, history)
