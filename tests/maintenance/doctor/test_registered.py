"""The registered keys, and what they do not protect."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.places import execute
from tests.maintenance.doctor.conftest import Ask

MOVED = (
    "UPDATE refresh_tokens SET encrypted_token = (SELECT encrypted_token FROM refresh_tokens "
    "WHERE user_id = 'alice') WHERE user_id = 'carol'"
)


@pytest.mark.parametrize(
    ("change", "level", "message"),
    [
        ("UPDATE keys SET state = 'former'", "error", "has 0 primary ones (none)"),
        ("UPDATE keys SET state = 'primary'", "error", "has 2 primary ones"),
        (
            "UPDATE keys SET \"check\" = 'v2.' || hex(randomblob(40)) WHERE kind = 'v2'",
            "error",
            "was changed",
        ),
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
