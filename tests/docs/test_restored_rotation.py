"""The guide to a backup from before a key rotation: it is typed, line by line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from cryptography.fernet import Fernet

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.keys.census import count_secrets
from nextcloud_mcp_server.maintenance.keys.promote import introduce, promote
from nextcloud_mcp_server.maintenance.keys.retire import retire
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.settings import Settings
from tests.docs.conftest import DOCS
from tests.wheel.documents import blocks, environment, run

PAGE: Final = DOCS / "how-to" / "back-up-and-restore.md"

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))
OLDER, NEWER = Keyring([OLD, NEW]).fingerprints


async def test_the_new_key_is_introduced_again(tmp_path: Path) -> None:
    """After the steps the new key encrypts every secret, and the old one is retired."""
    database = tmp_path / "tokens.db"
    async with RefreshTokenStorage(database, encryption_key=OLD) as storage:
        await storage.store_refresh_token("alice", "the-refresh-token")
    backup = back_up(database)
    both = Settings(database, (NEW, OLD))
    introduce(both)
    promote(both, NEWER)
    rotate(both)
    retire(both, OLDER)

    program = Path(sys.executable).parent
    env = {**environment(tmp_path, program), "TOKEN_ENCRYPTION_KEY": NEW, "BACKUP": str(backup)}
    section = PAGE.read_text("utf-8").partition("before a key rotation\n\n")[2]
    here = [block for block in blocks(PAGE) if block.text.strip() in section]
    [listing] = [block for block in here if "keys list" in block.text]
    assert "no given key opens it" in run(listing, PAGE, tmp_path, tmp_path, env)
    assert "`no given key opens it`" in section
    (tmp_path / "exports").unlink()

    [steps] = [block for block in here if "keys introduce" in block.text]
    env["TOKEN_ENCRYPTION_KEY"] = f"{NEW};{OLD}"
    assert f"key {OLDER} is retired" in run(steps, PAGE, tmp_path, tmp_path, env)
    census = count_secrets(Settings(database, (NEW,)))
    assert census.primary is not None
    assert census.primary.fingerprint == NEWER
    assert dict(census.by_table(census.primary)) == {"refresh_tokens": 1}
