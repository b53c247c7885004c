"""The Python examples of the pages run without changes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

import pytest

from nextcloud_mcp_server.auth.app_passwords import AppPassword
from nextcloud_mcp_server.auth.oauth_clients import OAuthClient
from nextcloud_mcp_server.auth.refresh_tokens import RefreshToken
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.cli.main import main
from nextcloud_mcp_server.crypto.keyring import Keyring
from tests.docs.conftest import DOCS, ROOT
from tests.support.child import run_program
from tests.wheel.documents import Block, blocks

OLD: Final = "b2xkLW9sZC1vbGQtb2xkLW9sZC1vbGQtb2xkLW9sZC0="
NEW: Final = "bmV3LW5ldy1uZXctbmV3LW5ldy1uZXctbmV3LW5ldy0="

ROTATE: Final = DOCS / "how-to" / "rotate-keys.md"
PAGES: Final = (ROOT / "README.md", DOCS / "how-to" / "embed.md", DOCS / "reference" / "api.md")
EXAMPLES: Final = [
    pytest.param(block, id=f"{page.name}:{block.line}")
    for page in PAGES
    for block in blocks(page)
    if block.language == "python"
]

#: An application is started, each of its routes requested, and stopped.
_SERVE: Final = """
if "app" in globals():
    from starlette.testclient import TestClient

    with TestClient(app) as client:
        for route in app.routes:
            answer = client.get(route.path)
            assert answer.status_code == 200, (route.path, answer.text)
"""


def run(block: Block, folder: Path, **settings: str) -> None:
    """Run an example in ``folder`` with these settings only; it must succeed."""
    program = (sys.executable, "-W", "error", "-c", block.text + _SERVE)
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), **settings}
    done = run_program(*program, cwd=folder, env=environ)
    assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(example: Block, tmp_path: Path) -> None:
    """Each example runs in an empty folder; an application starts, responds and stops."""
    run(example, tmp_path)


Kept = tuple[RefreshToken | None, AppPassword | None, OAuthClient | None]


async def _kept(database: Path, key: str) -> Kept:
    async with RefreshTokenStorage(database, encryption_key=key, clock=lambda: 0) as storage:
        return (
            await storage.get_refresh_token("alice"),
            await storage.app_passwords.get("bob"),
            await storage.oauth_clients.get(),
        )


async def _store(database: Path) -> None:
    async with RefreshTokenStorage(database, encryption_key=OLD, clock=lambda: 1000) as storage:
        await storage.store_refresh_token(
            "alice", "token", expires_at=5000, scopes=["notes:read"], flow_type="flow2",
            provisioned_at=900, provisioning_client_id="client",
        )  # fmt: skip
        await storage.app_passwords.store("bob", "password", scopes=[], username="robert")
        await storage.oauth_clients.store(
            "client", "secret", redirect_uris=["https://here.example/"], client_id_issued_at=800,
            client_secret_expires_at=9000, registration_access_token="register",
        )  # fmt: skip


def test_the_page_encrypts_everything_with_the_new_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afterwards the new key decrypts everything, and nothing else has changed."""
    database = tmp_path / "tokens.db"
    asyncio.run(_store(database))
    before = asyncio.run(_kept(database, OLD))
    new, old = Keyring([NEW, OLD]).fingerprints
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", f"{NEW};{OLD}")
    for name in ("introduce", "promote", "rotate", "retire"):
        start = f"nextcloud-mcp-server keys {name} "
        [text] = [
            b.text for b in blocks(ROTATE) if b.language == "bash" and b.text.startswith(start)
        ]
        text = text.replace("5d41402a", new).replace("7b52009b", old)
        command = text.replace("/path/to/tokens.db", str(database)).split()
        assert main(command[1:]) == 0
    after = asyncio.run(_kept(database, NEW))
    assert all(after)
    assert [_facts(found) for found in after] == [_facts(found) for found in before]


def _facts(found: object) -> dict[str, object]:
    fields = type(found).__dataclass_fields__  # type: ignore[attr-defined]  # all three are
    return {n: getattr(found, n) for n in fields if n != "_clock"}
