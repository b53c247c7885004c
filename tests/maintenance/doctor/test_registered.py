"""The registered keys, and what they do not protect."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.maintenance.keys.census import count_secrets
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import execute
from tests.maintenance.doctor.conftest import Ask
from tests.support.contents import KEY

MOVED = (
    "UPDATE refresh_tokens SET encrypted_token = (SELECT encrypted_token FROM refresh_tokens "
    "WHERE user_id = 'alice') WHERE user_id = 'carol'"
)


NOT_SIGNED = "is not what the key that encrypts has signed"


@pytest.mark.parametrize(
    ("change", "level", "message"),
    [
        ("UPDATE keys SET state = 'former'", "error", NOT_SIGNED),
        ("UPDATE keys SET state = 'primary'", "error", NOT_SIGNED),
        ("UPDATE keys SET \"check\" = 'v2.' || hex(randomblob(40))", "error", NOT_SIGNED),
        ("UPDATE keys SET state = 'former' WHERE kind = 'fernet'", "note", "are accepted"),
        (
            MOVED,
            "warning",
            "changed, or of another row (refresh_tokens.encrypted_token of 'carol')",
        ),
    ],
    ids=["none", "two", "check", "old", "moved"],
)
def test_what_is_wrong_with_the_keys_is_found(
    path: Path, ask: Ask, change: str, level: str, message: str
) -> None:
    """Each with what to do; a healthy database has one line about its keys."""
    assert {finding.level for finding in ask("keys")} == {"ok"}
    execute(path, change)
    [found] = [one for one in ask("keys") if message in one.message and one.level == level]
    assert found.command


def test_a_text_that_was_moved_needs_its_key_and_is_not_opened(path: Path, ask: Ask) -> None:
    """Nothing says that a key opens it: it names the key, and is bound to another row."""
    execute(path, MOVED)
    said = [one.message for one in ask("keys")]
    assert any("is needed for" in one for one in said)
    assert any("1 secret: changed, or of another row" in one for one in said)
    assert not any(" opens " in one for one in said if not one.startswith("values of older"))


async def test_each_secret_is_counted(path: Path, ask: Ask) -> None:
    """Also those that released versions have stored in plain text, such as a profile."""

    def number() -> int:
        return sum(count_secrets(Settings(path, (KEY,))).secrets.values())

    before = number()
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        await storage.store_refresh_token("new", "a token")
        await storage.store_user_profile("new", {"name": "New"})
    assert number() == before + 2
    assert any(
        f"needed for {before + 2} of {before + 2} secrets" in one.message for one in ask("keys")
    )
