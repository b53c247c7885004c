"""The revisions of this checkout, read from the names of their files.

Tests take the newest revision from here, so that a developer's next revision changes no
expected text.
"""

from __future__ import annotations

import io
import re
import sqlite3
from argparse import Namespace
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config

from nextcloud_mcp_server.migrate.alembic_commands import ALEMBIC, listing
from nextcloud_mcp_server.schema.history import load_history
from nextcloud_mcp_server.schema.revision import Revision

SCRIPTS: Final = Path(__file__).parents[2] / "alembic"

#: Every revision, oldest first.
ALL: Final = tuple(sorted(p.name.split("_")[2] for p in (SCRIPTS / "versions").glob("2*.py")))

#: Revisions of released versions.
FIELD: Final = tuple(f"{number:03}" for number in range(1, 11))

#: Revisions whose facts are written in the tests: the released ones and 101.
KNOWN: Final = (*FIELD, "101")

#: Revisions that were added later.
NEWER: Final = ALL[len(KNOWN) :]

HEAD: Final = ALL[-1]


def _calling(*operations: str) -> frozenset[str]:
    """Return the revisions that call one of the guards' ``operations``."""
    return frozenset(
        path.name.split("_")[2]
        for path in (SCRIPTS / "versions").glob("2*.py")
        if re.search(rf'guards(?:"\])?\.({"|".join(operations)})\(', path.read_text("utf-8"))
    )


#: Revisions that read rows or tables, so ``--sql`` refuses them.
NOT_IN_SQL: Final = _calling("rewrite", "recreate_table")

#: Revisions whose downgrade needs a key, so ``--sql`` refuses it.
NOT_DOWN_IN_SQL: Final = _calling("decrypt")

#: The newest revision that ``--sql`` reaches from an empty database.
SQL_HEAD: Final = [*takewhile(lambda revision: revision not in NOT_IN_SQL, ALL)][-1]

#: The revision before head.
BEFORE: Final = ALL[-2]

#: The id that ``db migrate`` gives.
NEXT_ID: Final = f"{int(HEAD) + 1:03}"


def previous(revision: str) -> str:
    """The revision below, or ``base``."""
    index = ALL.index(revision)
    return ALL[index - 1] if index else "base"


def pending_after(revision: str | None) -> tuple[str, ...]:
    """Return the revisions that an upgrade from ``revision`` runs; all of them for None."""
    return ALL[ALL.index(revision) + 1 :] if revision else ALL


@cache
def statements(revision: str) -> tuple[str, ...]:
    """Return the statements of one revision on SQLite, without version row and transaction.

    Without ``rewrite``: it changes no table.
    """
    assert revision in NEWER, "the facts of a known revision are in facts.py"
    buffer = io.StringIO()
    config = Config(
        output_buffer=buffer, stdout=io.StringIO(), cmd_opts=Namespace(x=["database_url=sqlite://"])
    )
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["reviewed"] = revision not in _calling("recreate_table")
    with ALEMBIC:
        command.upgrade(config, f"{previous(revision)}:{revision}", sql=True)
    return tuple(s for s in _split(buffer.getvalue()) if "alembic_version" not in s)


def _split(script: str) -> list[str]:
    found, text = [], ""
    for line in script.splitlines():
        if line.startswith("--") or line in ("", "BEGIN;", "COMMIT;"):
            continue
        text += f"{line}\n"
        if sqlite3.complete_statement(text):
            found.append(text)
            text = ""
    assert not text, text
    return found


def described(revision: str) -> Revision:
    """Return the description of a revision that is newer than the facts."""
    assert revision in NEWER, "the descriptions of known revisions are in the tests"
    return next(found for found in listing(load_history()) if found.id == revision)
