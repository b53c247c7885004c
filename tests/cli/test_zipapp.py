"""Started from a zipapp, the program says so, and the remedy helps."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

from tests.cli.places import ROOT, environment, process

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
    subprocess.run(
        ["sh", "-c", f"{shell} db upgrade -d {shlex.quote(folder)}"],
        cwd=tmp_path,
        env=environment(tmp_path, root=tmp_path / "nowhere"),
        check=True,
        timeout=120,
    )
    assert (tmp_path / "t.db").is_file()
