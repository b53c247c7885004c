"""Write a migration, and put one that came second at the end of the line: in a checkout only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from nextcloud_mcp_server.authoring.lint.chain import line_problems
from nextcloud_mcp_server.authoring.lint.rules import RULES
from nextcloud_mcp_server.authoring.lint.version_files import Script, read_script, read_scripts
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.errors import naming
from nextcloud_mcp_server.migrate import alembic_commands
from nextcloud_mcp_server.schema import history
from nextcloud_mcp_server.schema.history import is_checkout, load_history

#: What a new revision's rows are made of, beside ``script.py.mako``.
ROWS_TEMPLATE: Final = "rows.py.template"

#: Where the rows of the walks lie, from the top of a checkout.
ROWS_FOLDER: Final = ("tests", "migrations", "revisions")

#: The rules without which Alembic cannot say what comes after what.
ORDER: Final = frozenset({"not-python", "duplicated-id", "broken-chain", "second-head"})


@dataclass(frozen=True, slots=True)
class Written:
    """The files of a new migration.

    Attributes:
        script: the migration.
        rows: the rows that the walks of the tests put into its tables; None in a checkout
            without those tests.
    """

    script: Path
    rows: Path | None


def write(message: str) -> Written:
    """Write an empty migration with the next id, and an empty file of rows for its tables.

    Raises:
        TokenStorageError: ``not-a-checkout`` in an installed package, ``bad-input`` for a
            message without a letter or digit, or where the revisions are not one line.
    """
    if is_checkout():
        require_one_line(history.locate_scripts())
    script = alembic_commands.create(message)
    try:
        return Written(script, _write_rows(script, message))
    except BaseException:
        # Alone it would count as a revision, which nobody was told of.
        script.unlink(missing_ok=True)
        load_history.cache_clear()
        raise


def _write_rows(script: Path, message: str) -> Path | None:
    made = read_script(script)
    rows = rows_file(made)
    if not rows.parent.parent.is_dir():
        return None
    template = Template((load_history().directory / ROWS_TEMPLATE).read_text("utf-8"))
    text = template.substitute(id=made.id, title=alembic_commands.one_line(message))
    with naming(rows):
        rows.parent.mkdir(exist_ok=True)
        try:
            rows.write_text(text, "utf-8")
        except BaseException:
            rows.unlink(missing_ok=True)
            raise
    return rows


def require_one_line(folder: Path, *, rules: Collection[str] = RULES) -> None:
    """Refuse a folder of scripts in which one of ``rules`` of the line is broken.

    Raises:
        TokenStorageError: ``bad-input``, with the file and the line.
    """
    scripts, problems = read_scripts(folder / "versions")
    for found in (*problems, *line_problems(scripts)):
        if found.rule in rules:
            raise TokenStorageError(
                f"The revisions are not one line: {found.path.name}:{found.line}: {found.message}",
                code="bad-input",
                remedy="See what to do with: nextcloud-mcp-server db lint",
            )


def rows_file(script: Script, number: str | None = None) -> Path:
    """The file of test rows of a migration."""
    checkout = script.path.parents[2]
    return checkout.joinpath(*ROWS_FOLDER, f"rows_{number or script.id}_{script.slug}.py")


def cannot_move(why: str) -> TokenStorageError:
    """The error for a migration that cannot be renumbered."""
    return TokenStorageError(
        why, code="bad-input", remedy="See what is wrong with: nextcloud-mcp-server db lint"
    )
