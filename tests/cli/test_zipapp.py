"""Started from a zipapp, the program says so, and the remedy helps."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import zipapp
from pathlib import Path

import pytest

from nextcloud_mcp_server.cli.output import installation_error
from nextcloud_mcp_server.schema import history
from tests.cli.places import ROOT, environment, process
from tests.support.child import run_program

MAIN = "import sys\nfrom nextcloud_mcp_server.cli.main import main\nsys.exit(main())\n"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The package with its migration scripts, as a zipapp."""
    source, ignored = tmp_path / "source", shutil.ignore_patterns("__pycache__")
    package = source / "nextcloud_mcp_server"
    shutil.copytree(ROOT / "nextcloud_mcp_server", package, ignore=ignored)
    shutil.copytree(ROOT / "alembic", package / "_alembic", ignore=ignored)
    (source / "__main__.py").write_text(MAIN)
    zipapp.create_archive(source, tmp_path / "app.pyz", interpreter="/usr/bin/env python3")
    return tmp_path / "app.pyz"


def test_a_zipapp_is_named_and_can_be_unpacked(archive: Path, tmp_path: Path) -> None:
    """Every command that needs the scripts has the code; the command in the remedy works."""
    start = f"import runpy, sys; sys.argv[0] = {str(archive)!r}; runpy.run_path({str(archive)!r})"
    for arguments in (("db", "current"), ("db", "upgrade"), ("run", "--port", "0")):
        done = process(*arguments, cwd=tmp_path, code=start, root=tmp_path / "nowhere")
        assert done.status == 1
        assert f"error: The program was started from the archive {archive}, and " in done.err
        assert "[no-migrations]" in done.err
    typed = done.err.partition("start that: ")[2].strip().replace("python ", "{0} ")
    shell = typed.format(shlex.quote(sys.executable))
    folder = os.fspath(tmp_path / "t.db")
    environ = environment(tmp_path, root=tmp_path / "nowhere")
    line = f"{shell} db upgrade -d {shlex.quote(folder)}"
    run_program("sh", "-c", line, cwd=tmp_path, env=environ, check=True)
    assert (tmp_path / "t.db").is_file()


def test_a_compiled_module_in_an_archive_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive with its dependencies fails at the first compiled module, before the scripts."""

    def in_archive() -> Path:
        raise history._in_archive(Path("/srv/app.pyz"))

    monkeypatch.setattr(history, "locate_scripts", in_archive)
    error = installation_error(ImportError("cannot import name 'x'", name="cryptography"))
    assert "The program was started from the archive /srv/app.pyz" in str(error)


def test_a_folder_in_the_place_of_a_library_is_named(tmp_path: Path) -> None:
    """PYTHONPATH finds a package `alembic` that is not the library."""
    (tmp_path / "alembic").mkdir()
    (tmp_path / "alembic" / "__init__.py").write_text("x = 1\n")
    environ = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = process("db", "upgrade", "-d", "tokens.db", cwd=tmp_path, environ=environ)
    assert done.status == 1
    assert f"alembic is {tmp_path / 'alembic'}." in done.err
    assert "PYTHONPATH" in done.err.splitlines()[-1]
