"""A folder that only another user may enter is named with its owner and its mode."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.places import at
from tests.support.unprivileged import as_nobody, open_folder

ATTEMPTS = """
import json
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.crypto.keyfile import find_keyring
from nextcloud_mcp_server.migrate.inspect import inspect
path, other = Path(sys.argv[1]), Path(sys.argv[2])
attempts = {
    "start": lambda: prepare(path),
    "look": lambda: inspect(connect(path)),
    "store": lambda: asyncio.run(warm_up(path)),
    "downgrade": lambda: downgrade(path, "009"),
    "backup": lambda: back_up(path),
    "below": lambda: prepare(path.parent / "deeper" / "tokens.db"),
    "linked": lambda: prepare(path.parent.parent / "link" / "tokens.db"),
    "key": lambda: find_keyring(settings.Settings(other, key_file=path.parent / "key"), other),
}
found = {}
for name, attempt in attempts.items():
    try:
        attempt()
    except TokenStorageError as error:
        found[name] = [error.code, error.message, error.remedy]
print(json.dumps(found))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of root with the mode 0700, and a link to it, where everybody may look."""
    with open_folder() as around:
        closed = around / "data"
        closed.mkdir(mode=0o700)
        (around / "link").symlink_to(closed)
        (around / "open").mkdir()
        (around / "open").chmod(0o777)
        yield closed


@pytest.mark.parametrize("there", [False, True])
def test_a_closed_folder_is_named_with_owner_and_mode(there: bool, folder: Path) -> None:
    """With or without a database in it, every use names the folder, its owner and its mode."""
    if there:
        at(folder / "tokens.db")
    found = json.loads(as_nobody(ATTEMPTS, folder / "tokens.db", folder.parent / "open" / "t.db"))
    assert " ".join(found) == "start look store downgrade backup below linked key"
    for name, (code, message, remedy) in found.items():
        assert "is closed to user nobody: it belongs to user root, its mode is 0700" in message
        assert code == ("key-missing" if name == "key" else "bad-path")
        if name != "key":
            assert remedy.startswith("Run this as user root, or give the path of a file that user")
    assert found["start"][2].endswith(f": chown -R nobody {folder}")


def test_a_link_into_a_closed_folder_names_its_target(folder: Path) -> None:
    """The folder to open is the one that the link leads through."""
    code = """
link = Path(sys.argv[1])
try:
    prepare(link)
except TokenStorageError as error:
    print(error.message)
"""
    inner = folder / "inner"
    inner.mkdir()
    link = folder.parent / "inner"
    link.symlink_to(inner)
    assert f"its folder {folder} is closed to" in as_nobody(code, link / "tokens.db")
