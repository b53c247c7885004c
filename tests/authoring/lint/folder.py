"""A folder with a few revisions, to which a test adds a faulty one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.authoring.lint.review import Review, release, review
from nextcloud_mcp_server.authoring.lint.rules import Problem
from nextcloud_mcp_server.migrate import structures
from nextcloud_mcp_server.schema.history import load_history
from tests.support.scripts import SCRIPTS

#: Marks the line of an expected problem.
HERE: Final = "HERE"


_FILE: Final = '''"""{title}.

{labels}
"""

from alembic import op

revision = "{number}"
down_revision = {below}
branch_labels = None
depends_on = None


{body}'''

CREATE: Final = """def upgrade() -> None:
    op.execute("CREATE TABLE IF NOT EXISTS {0} (id INTEGER PRIMARY KEY, body TEXT)")


def downgrade() -> None:
    op.execute("DROP TABLE IF EXISTS {0}")
"""


def source(
    number: str,
    below: str | None,
    body: str | None = None,
    *,
    title: str = "Add a table",
    labels: str = "Downgrade loses: the table.",
) -> str:
    """Build a version file without problems, except for the given parts."""
    return _FILE.format(
        title=title,
        labels=labels,
        number=number,
        below=repr(below) if below is None else f'"{below}"',
        body=CREATE.format(f"t{number}") if body is None else body,
    )


def with_sql(*up: str, down: tuple[str, ...] = ("DROP TABLE IF EXISTS x",)) -> str:
    """Build the body of a revision with this SQL; a problem is expected at the last of ``up``."""
    sent = [f"    op.execute({one!r})" for one in up]
    sent[-1:] = [f"{one}  # {HERE}" for one in sent[-1:]]
    undone = [f"    op.execute({one!r})" for one in down]
    return "\n".join(["def upgrade():", *sent, "", "", "def downgrade():", *undone, ""])


class Folder:
    """A folder of migration scripts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.versions = path / "versions"

    def write(self, name: str, text: str) -> Path:
        """Write a version file."""
        path = self.versions / name
        path.write_text(text, "utf-8")
        load_history.cache_clear()
        return path

    def add(self, number: str, below: str | None, body: str | None = None, **parts: str) -> Path:
        """Write a revision without problems, except for the given parts."""
        moment = f"202601{len(list(self.versions.iterdir())) + 1:02}_1200"
        return self.write(f"{moment}_{number}_add_it.py", source(number, below, body, **parts))

    def file(self, number: str) -> Path:
        """Return the file of a revision."""
        (path,) = self.versions.glob(f"*_{number}_*.py")
        return path

    def edit(self, number: str, old: str, new: str) -> Path:
        """Change the text of a revision."""
        path = self.file(number)
        text = path.read_text("utf-8")
        assert old in text, text
        return self.write(path.name, text.replace(old, new))

    def review(self) -> Review:
        """Run lint."""
        return review(self.path)

    def problems(self) -> list[Problem]:
        """Run lint, and return the problems except stale-structure."""
        return [p for p in self.review().problems if p.rule != "stale-structure"]

    def release(self) -> None:
        """Generate structure.json, and release every revision."""
        structures.write_structures(load_history(self.path))
        release(self.review())


def make(path: Path) -> Folder:
    """Create a folder with the released revisions 001 and 002."""
    (path / "versions").mkdir(parents=True)
    for shared in SCRIPTS.iterdir():
        if shared.is_file() and shared.suffix != ".json":
            shutil.copy(shared, path / shared.name)
    folder = Folder(path)
    folder.add("001", None)
    folder.add("002", "001")
    folder.release()
    return folder


def here(path: Path) -> int:
    """Return the line of ``path`` that has the mark."""
    lines = path.read_text("utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if HERE in line)
