"""The files of the wheel and the sdist."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from tests.wheel.conftest import CHECKOUT

PACKAGE = CHECKOUT / "nextcloud_mcp_server"
MIGRATIONS = CHECKOUT / "alembic"


def _sources(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _contents(wheel: Path) -> dict[str, list[bytes]]:
    """Return the lines of every file; those of RECORD sorted, whose order may differ."""
    with zipfile.ZipFile(wheel) as archive:
        lines = {name: archive.read(name).splitlines() for name in archive.namelist()}
    return {n: sorted(text) if n.endswith("/RECORD") else text for n, text in lines.items()}


def test_the_wheel_holds_the_package_and_its_migrations_and_nothing_else(wheel: Path) -> None:
    """The wheel is the package with ``alembic/`` as ``_alembic``, and its metadata."""
    names = {n for n in _contents(wheel) if ".dist-info/" not in n}

    package = {f"nextcloud_mcp_server/{name}" for name in _sources(PACKAGE)}
    migrations = {f"nextcloud_mcp_server/_alembic/{name}" for name in _sources(MIGRATIONS)}
    assert names == package | migrations


def test_the_wheel_is_typed_and_licensed(wheel: Path) -> None:
    """``py.typed`` and the licence text are in the wheel."""
    names = set(_contents(wheel))

    assert "nextcloud_mcp_server/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_never_hides_the_library_alembic(wheel: Path) -> None:
    """No folder on the import path is called ``alembic``, and the scripts are no package."""
    names = {PurePosixPath(name) for name in _contents(wheel)}

    assert {name.parts[0] for name in names if not name.parts[0].endswith(".dist-info")} == {
        "nextcloud_mcp_server"
    }
    assert PurePosixPath("nextcloud_mcp_server/_alembic/__init__.py") not in names


def test_the_sdist_builds_the_same_wheel(wheel: Path, wheel_of_sdist: Path) -> None:
    """A wheel built from the sdist has the same lines as the one of the checkout."""
    assert _contents(wheel_of_sdist) == _contents(wheel)


def test_the_sdist_is_complete(sdist: Path) -> None:
    """The sdist contains migrations, tests and documents, and no build results."""
    with tarfile.open(sdist) as archive:
        names = {PurePosixPath(m.name).relative_to(sdist.name[:-7]) for m in archive.getmembers()}

    wanted = {
        ".ci/run",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Dockerfile",
        "README.md",
        "SECURITY.md",
        "alembic.ini",
        "docs/_ext/generated_pages.py",
        "docs/conf.py",
        "docs/database-migrations.md",
        "examples/embedding/reminders.py",
        "docs/explanation/startup-sequence.svg",
        "docs/index.md",
        "nextcloud_mcp_server/_alembic/env.py",
        "noxfile.py",
        "pyproject.toml",
        "tests/wheel/test_contents.py",
    }
    assert {str(name) for name in names} >= wanted
    assert "alembic" not in {name.parts[0] for name in names if name.parts}
    assert not {n for n in names if "__pycache__" in n.parts or n.suffix in (".pyc", ".db")}
