"""Every shell block of the documents, run in a checkout and with the installed wheel."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.keyfile import key_path
from nextcloud_mcp_server.maintenance.backup import back_up
from tests.wheel import documents
from tests.wheel.documents import ROOT, Block, blocks, environment, run

if TYPE_CHECKING:
    from tests.wheel.conftest import Installed

DOCS: Final = ROOT / "docs"
MISSION: Final = ROOT.parent / "shared" / "mission.md"
GUIDE: Final = DOCS / "database-migrations.md"
DOCUMENTS: Final = [ROOT / "README.md", GUIDE, *([MISSION] if MISSION.is_file() else [])]

#: Pages for operators, who use the installed command on an existing database. Pages for authors of
#: migrations need a checkout: see test_tutorial.py. scale-out.md and move.md need
#: PostgreSQL: see tests/docs/test_scale_out.py.
PAGES: Final = [
    page
    for page in (DOCS / "index.md", *sorted((DOCS / "how-to").glob("*.md")))
    if page.name not in {"change-rows.md", "move.md", "scale-out.md"}
    and any(
        block.language == "bash" and re.search("nextcloud-mcp-server (db|keys)", block.text)
        for block in blocks(page)
    )
]

#: Commands that need a checkout.
_SOURCE: Final = ("db migrate", "db lint --fix", "db lint --release", "git commit")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the working tree as a new repository."""
    return documents.checkout(tmp_path_factory.mktemp("checkout") / "nextcloud-mcp-server")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_works_in_a_checkout(document: Path, checkout: Path, tmp_path: Path) -> None:
    """Every block succeeds in a checkout, one after the other, with ``uv run``."""
    cwd = tmp_path / "checkout"
    shutil.copytree(checkout, cwd)
    place = tmp_path / "place"
    place.mkdir()
    for block in blocks(document):
        if block.language == "bash":
            run(block, document, cwd, place, environment(place))
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
    """Every block succeeds with the installed wheel in an empty folder, without uv."""
    env = environment(tmp_path, installed.prefix / "bin")
    for block in blocks(document):
        if block.language == "bash" and not any(word in block.text for word in _SOURCE):
            run(block, document, tmp_path, tmp_path, env)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
async def test_every_block_of_a_page_works_for_an_operator(
    page: Path, installed: Installed, tmp_path: Path
) -> None:
    """Every block of a page succeeds on a database with a token, a key and a backup."""
    database = tmp_path / "tokens.db"
    async with RefreshTokenStorage(database) as storage:
        await storage.store_refresh_token("alice", "the-refresh-token")
    back_up(database)
    key = key_path(database).read_text("ascii").strip()
    env = {**environment(tmp_path, installed.prefix / "bin"), "TOKEN_ENCRYPTION_KEY": key}
    for block in blocks(page):
        if block.language == "bash":
            run(block, page, tmp_path, tmp_path, env)
