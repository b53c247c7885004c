"""The plugin with workers, with a developer's settings, and in runs without our fixtures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.plugin.runs import HOSTILE, project, run_pytest
from tests.support.files import names
from tests.support.revisions import HEAD

_WORKERS = """
import os
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range(6))
def test_a_database(token_db, token_db_at, token_encryption_key, worker_id, number):
    token_db_at("006")
    Path(f"{number}.txt").write_text(f"{worker_id} {token_encryption_key}")
"""


def test_workers_share_templates_and_the_key(tmp_path: Path) -> None:
    """Under pytest-xdist each template is made once, and all workers have the same key."""
    folder = project(tmp_path / "project", test_it=_WORKERS)
    base = tmp_path / "base"
    workers = ("-n", "2", "--dist=each", "--maxprocesses=2")
    ran = run_pytest(folder, "-p", "no:asyncio", *workers, f"--basetemp={base}")
    assert ran.counts == {"passed": 12}, ran.text

    [templates] = base.glob("**/token-store-templates*")
    assert names(templates) == {"006.db", f"{HEAD}.db", "templates.lock"}
    written = {path.read_text() for path in folder.glob("*.txt")}
    assert len({text.split()[1] for text in written}) == 1


_SHELL = """
import os
from runs import HOSTILE
from nextcloud_mcp_server.settings import load_settings

def shell():
    return {name: os.environ.get(name) for name in HOSTILE}

def test_within(token_settings, token_db, monkeypatch):
    assert load_settings().database == token_db
    monkeypatch.undo()
    assert load_settings().keys == token_settings.keys

def test_of_others():
    assert shell() == HOSTILE

def test_that_sets_one_itself(monkeypatch, token_environment):
    monkeypatch.setenv("TOKEN_STORAGE_DB", "/tmp/another.db")
    monkeypatch.delenv("TOKEN_ENCRYPTION_KEY")

def test_of_others_again():
    assert shell() == HOSTILE
"""


def test_no_setting_of_the_shell_is_used_in_a_test(tmp_path: Path) -> None:
    """A developer's settings are unset in a test, and restored after it."""
    folder = project(tmp_path, test_shell=_SHELL, runs=f"HOSTILE = {HOSTILE!r}\n")
    ran = run_pytest(folder, "-p", "no:asyncio")
    assert ran.counts == {"passed": 4}, ran.text


_IMPORTED = """
import json, sys
import pytest
before = set(sys.modules)
import nextcloud_mcp_server.pytest_plugin
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_the_plugin_imports_nothing_but_pytest() -> None:
    """An import of the plugin imports two small files of this package, and nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED], capture_output=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == ["nextcloud_mcp_server", "nextcloud_mcp_server.pytest_plugin"]


_OTHER_PROJECT = """
import sys

def pytest_sessionfinish():
    heavy = {"aiosqlite", "alembic", "click", "cryptography", "filelock", "sqlalchemy", "starlette"}
    ours = {name for name in sys.modules if name.startswith("nextcloud_mcp_server")}
    assert not heavy & sys.modules.keys()
    assert ours == {"nextcloud_mcp_server", "nextcloud_mcp_server.pytest_plugin"}
"""


def test_a_run_without_our_fixtures_loads_nothing_of_ours(tmp_path: Path) -> None:
    """A run that uses no fixture of ours ends without one of our libraries loaded."""
    folder = project(tmp_path, conftest=_OTHER_PROJECT, test_it="def test_it():\n    pass\n")
    ran = run_pytest(folder, "-p", "no:anyio", "-p", "no:asyncio")
    assert (ran.status, ran.counts) == (0, {"passed": 1}), ran.text
