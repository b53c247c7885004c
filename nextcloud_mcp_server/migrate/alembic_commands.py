"""All contact with Alembic: run, stamp, list and write revisions.

Everything here that runs a command holds :data:`ALEMBIC` while it does: the environment of
:mod:`.environment` serves one command at a time. The connection is always handed over, inside
a transaction that the caller commits: Alembic itself then commits nothing.
"""

from __future__ import annotations

# env.py imports it, where no fork waits for it.
import logging.config  # noqa: F401
import os
import re
import runpy
import threading
import unicodedata
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.errors import naming
from nextcloud_mcp_server.migrate import environment
from nextcloud_mcp_server.migrate.environment import Scripts
from nextcloud_mcp_server.progress import Reporter, silent
from nextcloud_mcp_server.schema.history import BASE, History, is_checkout, load_history
from nextcloud_mcp_server.schema.revision import Revision, describe, read_docstring

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from nextcloud_mcp_server.migrate.decryption import Decryption


#: Held while a command of Alembic runs, inside the file lock, never on the event loop.
ALEMBIC: Final = threading.RLock()

# The thread that held it does not exist in a forked child.
os.register_at_fork(after_in_child=ALEMBIC._at_fork_reinit)  # type: ignore[attr-defined]

#: Where ids of this project begin; those below are history shared with other programs.
FIRST_OWN_ID: Final = 101

#: The longest description in the name of a file, in characters.
_LONGEST_SLUG: Final = 60

#: Called after each revision that has run.
Applied = Callable[[], object]


def configuration(
    history: History,
    connection: Connection | None = None,
    applied: Applied = lambda: None,
    report: Reporter = silent,
    decryption: Decryption | None = None,
) -> Config:
    """Return Alembic's configuration for ``history``, without a file and without a URL."""
    config = Config()
    # ConfigParser would read '%' in a path as an interpolation.
    config.set_main_option("script_location", str(history.directory).replace("%", "%%"))
    config.set_main_option("timezone", "UTC")
    if connection is not None:
        config.attributes["connection"] = connection
        config.attributes["applied"] = applied
        config.attributes["say"] = report
        config.attributes["decryption"] = decryption
    return config


#: The remedy if Alembic fails.
HISTORY: Final = "List the revisions: nextcloud-mcp-server db history"

#: What to do about revisions that Alembic cannot put in a line.
LINT: Final = "See what is wrong with them: nextcloud-mcp-server db lint"


@contextmanager
def _running(what: str, remedy: str = HISTORY, *, code: str = "migration-failed") -> Iterator[None]:
    with ALEMBIC:
        try:
            yield
        except CommandError as error:
            reason = str(error).rstrip(".")
            message = f"The {what} failed: {reason}."
            raise TokenStorageError(message, code=code, remedy=remedy) from error


def stamp(connection: Connection, history: History, revision: str) -> None:
    """Make ``revision`` the only row of the version table, without running anything."""
    scripts = Scripts(history.directory)
    with _running("stamp"):
        environment.run(
            configuration(history, connection),
            scripts,
            fn=lambda recorded, _: scripts._stamp_revs((revision,), recorded),
            destination_rev=(revision,),
            purge=True,
        )


def upgrade(
    connection: Connection,
    history: History,
    target: str,
    applied: Applied = lambda: None,
    report: Reporter = silent,
) -> None:
    """Run every revision from the recorded one up to ``target``; ``applied`` after each.

    Long operations report their progress.
    """
    _migrate("upgrade", configuration(history, connection, applied, report), history, target)


def downgrade(
    connection: Connection,
    history: History,
    target: str,
    applied: Applied = lambda: None,
    report: Reporter = silent,
    *,
    decryption: Decryption | None = None,
) -> None:
    """Run every revision from the recorded one down to ``target`` (an id or ``base``)."""
    config = configuration(history, connection, applied, report, decryption)
    _migrate("downgrade", config, history, target)


def _migrate(
    what: Literal["upgrade", "downgrade"],
    config: Config,
    history: History,
    target: str,
    failing: AbstractContextManager[None] | None = None,
    **options: Any,
) -> None:
    scripts = Scripts(history.directory)
    steps = scripts._upgrade_revs if what == "upgrade" else scripts._downgrade_revs
    with failing or _running(what):
        environment.run(
            config,
            scripts,
            fn=lambda recorded, _: steps(target, recorded),
            destination_rev=target,
            **options,
        )


def write_sql(
    history: History,
    start: str | None,
    target: str | None,
    written: TextIO,
    *,
    dialect: str = "sqlite",
    down: bool = False,
    reviewed: bool = False,
    instead: str = "",
) -> None:
    """Write the SQL of every revision from ``start`` to ``target`` (None: base), up or ``down``.

    For a database that is exactly at ``start``. Each statement is one call of ``written.write``,
    made while the revision runs. If ``reviewed``, a step that needs a database is a comment,
    otherwise it is an error, whose remedy is ``instead``.

    Raises:
        TokenStorageError: ``bad-input`` if a revision has no statements of its own.
    """
    config = configuration(history)
    config.cmd_opts = Namespace(x=[f"database_url={dialect}://"])
    config.output_buffer = written
    config.attributes["reviewed"] = reviewed
    what: Literal["upgrade", "downgrade"] = "downgrade" if down else "upgrade"
    end = target or BASE
    on_copy = (
        f"See it run on a copy of a database: nextcloud-mcp-server db {what} {end} --dry-run "
        "-d PATH"
    )
    failing = _running(f"SQL of this {what}", instead or on_copy, code="bad-input")
    _migrate(what, config, history, end, failing, as_sql=True, starting_rev=start or BASE)


def listing(history: History) -> list[Revision]:
    """Return every revision, oldest first.

    Raises:
        TokenStorageError: ``migration-failed`` if they are not linear, ``bad-input`` for a file
            that is no migration.
    """
    with _running("list of the revisions", LINT):
        scripts = Scripts(history.directory)
        found: list[Any] = list(scripts.walk_revisions())[::-1]
        return [
            describe(read_docstring(Path(s.path)), s.revision, s.down_revision, Path(s.path))
            for s in found
        ]


def deleting(history: History, steps: Sequence[str]) -> frozenset[str]:
    """Return the tables that ``steps`` declare to delete rows from (``DELETES_ROWS_FROM``)."""
    with ALEMBIC:
        scripts = Scripts(history.directory)
        modules = [scripts.get_revision(step).module for step in steps]
    return frozenset(t for m in modules for t in getattr(m, "DELETES_ROWS_FROM", ()))


def unloadable(history: History) -> str:
    """Return the first version file that cannot be loaded, and why; empty if all can.

    Alembic loads them all before one runs, and does not name the one that it fails at.
    """
    for path in sorted((history.directory / "versions").glob("*.py")):
        try:
            runpy.run_path(str(path))
        except Exception as error:  # noqa: BLE001 - whatever a developer's file does is told
            return f"{path.name} cannot be loaded: {str(error) or type(error).__name__}"
    return ""


def create(message: str, history: History | None = None) -> Path:
    """Write an empty migration with the next id, and return its path.

    Raises:
        TokenStorageError: ``not-a-checkout`` in an installed package, ``bad-input`` for a
            message without a letter or digit.
    """
    if history is None and not is_checkout():
        raise TokenStorageError(
            "Migrations are written in a checkout, and this is an installed package.",
            code="not-a-checkout",
            remedy="Clone the project, then there: uv run nextcloud-mcp-server db migrate MESSAGE",
        )
    history = history or load_history()
    if not isinstance(message, str) or not (slug := slug_of(message)):  # type: ignore[redundant-expr]
        raise TokenStorageError(
            f"{message!r} does not describe a migration.",
            code="bad-input",
            remedy='Describe what it does, for example: db migrate "add user preferences table"',
        )
    number = next_id(history)
    name = f"{datetime.now(UTC):%Y%m%d_%H%M}_{number}_{slug}"
    path = history.directory / "versions" / f"{name}.py"
    config = configuration(history)
    # Chosen here, so that an incomplete file can be deleted.
    config.set_main_option("file_template", name)
    try:
        # Alembic says on stdout what it does; whoever called is told by the answer.
        with naming(path), _running("new revision", LINT), redirect_stdout(StringIO()):
            command.revision(config, message=one_line(message), rev_id=number)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        load_history.cache_clear()
    return path


def slug_of(message: str) -> str:
    """Return ``message`` for the name of a file, in ASCII; empty if nothing is left.

    An accented letter loses its accent, and every other sign is a gap between two words.
    """
    letters = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", message).casefold())
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    slug = re.sub("[^a-z0-9]+", "_", plain).strip("_")
    if len(slug) <= _LONGEST_SLUG:
        return slug
    return slug[: _LONGEST_SLUG + 1].rpartition("_")[0] or slug[:_LONGEST_SLUG]


def one_line(message: str) -> str:
    """Return ``message`` as one line that may stand in a docstring."""
    words = "".join(c if c.isprintable() else " " for c in message).split()
    return " ".join(words).replace("\\", "\\\\").replace('"""', "'''")


def next_id(history: History) -> str:
    """Return the id after head: this project's own revisions begin at 101."""
    return f"{max(int(history.head) + 1, FIRST_OWN_ID):03d}"
