"""Create a migration, in a checkout only."""

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

#: The folder of the test rows in a checkout.
ROWS_FOLDER: Final = ("tests", "migrations", "revisions")

#: The rules that Alembic needs to order the revisions.
ORDER: Final = frozenset({"not-python", "duplicated-id", "broken-chain", "second-head"})


@dataclass(frozen=True, slots=True)
class Written:
    """A new migration, and its file of test rows; None in a checkout without tests."""

    script: Path
    rows: Path | None


def write(message: str) -> Written:
    """Create an empty migration with the next id, and an empty file of test rows.

    Raises:
        TokenStorageError: ``not-a-checkout`` in an installed package; ``bad-input`` for a
            message without a letter or digit, or if the history is not linear.
    """
    if is_checkout():
        require_one_line(history.locate_scripts())
    script = alembic_commands.create(message)
    try:
        return Written(script, _write_rows(script, message))
    except BaseException:
        # Without this the script would remain as a revision.
        script.unlink(missing_ok=True)
        load_history.cache_clear()
        raise


def _write_rows(script: Path, message: str) -> Path | None:
    made = read_script(script)
    rows = rows_file(made)
    if not rows.parent.parent.is_dir():
        return None
    template = Template((load_history().directory / "rows.py.template").read_text("utf-8"))
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
    """Check that the history in ``folder`` is linear, as far as ``rules`` demand.

    Raises:
        TokenStorageError: ``bad-input``, with the file and the line.
    """
    scripts, problems = read_scripts(folder / "versions")
    for found in (*problems, *line_problems(scripts)):
        if found.rule in rules:
            raise TokenStorageError(
                f"The revision history is not linear: {found.path.name}:{found.line}: "
                f"{found.message}",
                code="bad-input",
                remedy="Show the problems with: nextcloud-mcp-server db lint",
            )


def rows_file(script: Script, number: str | None = None) -> Path:
    """Return the path of the test rows of a migration."""
    checkout = script.path.parents[2]
    return checkout.joinpath(*ROWS_FOLDER, f"rows_{number or script.id}_{script.slug}.py")


def cannot_move(why: str) -> TokenStorageError:
    """Create the error for a migration that cannot be renumbered."""
    return TokenStorageError(
        why, code="bad-input", remedy="Show the problems with: nextcloud-mcp-server db lint"
    )
