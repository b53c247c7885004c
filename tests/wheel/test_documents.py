"""Every shell block of the documents, typed as it stands, in a checkout and from the wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.wheel.documents import Block, blocks, script

if TYPE_CHECKING:
    from tests.wheel.conftest import Installed

ROOT: Final = Path(__file__).parents[2]
MISSION: Final = ROOT.parent / "shared" / "mission.md"
GUIDE: Final = ROOT / "docs" / "database-migrations.md"
DOCUMENTS: Final = [ROOT / "README.md", GUIDE, *([MISSION] if MISSION.is_file() else [])]

#: What only a checkout can do: write a migration, generate from it, commit it.
_SOURCE: Final = ("db migrate", "write_structures", "git commit")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the working tree that is a repository of its own."""
    target = tmp_path_factory.mktemp("checkout") / "nextcloud-mcp-server"
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    for command in ("init --quiet", "add --all", "commit --quiet --message start"):
        _git(target, *command.split())
    return target


def _git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True)


def _environment(place: Path, *folders: Path) -> dict[str, str]:
    """This process's environment, without what would point at this process's project."""
    ours = ("TOKEN_", "DATABASE_URL", "UV_PROJECT", "VIRTUAL_ENV", "PYTHONPATH", "NOX_", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    who = {
        f"GIT_{role}_{what}": f"test{ending}"
        for role in ("AUTHOR", "COMMITTER")
        for what, ending in (("NAME", ""), ("EMAIL", "@example.org"))
    }
    path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
    database = {"TOKEN_STORAGE_DB": str(place / "tokens.db"), "UV_PYTHON": sys.executable}
    return {**kept, **who, **database, "PATH": path}


def _run(block: Block, document: Path, cwd: Path, place: Path, env: dict[str, str]) -> None:
    with_uv = cwd != place
    result = subprocess.run(
        ["bash", "-c", script(block, place, with_uv=with_uv)],
        cwd=cwd,
        env=env,
        input="y\n" * 20,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    told = f"{document.name}:{block.line}\n{block.text}\n{result.stdout}\n{result.stderr}"
    assert result.returncode == 0, told
    assert "Traceback" not in result.stderr, told


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_works_in_a_checkout(document: Path, checkout: Path, tmp_path: Path) -> None:
    """Typed one after the other in a checkout, with ``uv run``, every block ends well."""
    cwd = tmp_path / "checkout"
    shutil.copytree(checkout, cwd)
    place = tmp_path / "place"
    place.mkdir()
    for block in blocks(document):
        if block.language == "bash":
            _run(block, document, cwd, place, _environment(place))
        elif document == GUIDE and "user_preferences" in block.text:
            _write_migration(cwd, block)


def _write_migration(checkout: Path, block: Block) -> None:
    (path,) = (checkout / "alembic" / "versions").glob("*_add_user_preferences_table.py")
    head = path.read_text("utf-8").partition("\ndef upgrade()")[0]
    path.write_text(f"{head}\n{block.text}", "utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_works_from_the_wheel(
    document: Path, installed: Installed, tmp_path: Path
) -> None:
    """From the installed wheel, in an empty folder and without uv, every block ends well."""
    env = _environment(tmp_path, installed.prefix / "bin")
    for block in blocks(document):
        if block.language == "bash" and not any(word in block.text for word in _SOURCE):
            _run(block, document, tmp_path, tmp_path, env)
