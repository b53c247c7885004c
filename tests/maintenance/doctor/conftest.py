"""A healthy database, and the findings of one check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.doctor.finding import Finding, Level
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from nextcloud_mcp_server.maintenance.keys.retire import retire
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.settings import Settings
from tests.support.by_path import prepare
from tests.support.contents import KEY
from tests.support.shapes import at

#: Examines a database and answers what one check found.
Ask = Callable[..., list[Finding]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a database at head, with rows and a backup, that only its owner can read."""
    return healthy(tmp_path / "data" / "tokens.db")


def healthy(path: Path) -> Path:
    """Make the healthy database at ``path``, in a folder of its own."""
    path.parent.mkdir(mode=0o700)
    plain = (
        "UPDATE oauth_sessions SET idp_access_token = NULL, idp_refresh_token = NULL",
        "UPDATE refresh_tokens SET encrypted_token = CAST(encrypted_token AS BLOB)",
    )
    at("010", "portable").also(*plain).write(path)
    path.chmod(0o600)
    prepare(path)
    settings = Settings(path, (KEY,))
    rotate(settings)
    [fingerprint] = Keyring(KEY).fingerprints
    retire(settings, fingerprint)
    for backup in path.parent.glob("*.backup-*"):
        backup.unlink()
    back_up(path)
    return path


@pytest.fixture
def ask(path: Path) -> Ask:
    """Return the findings of one check of ``path``, with the key of the tests by default."""

    def findings(check: str, *, full: bool = False, **settings: object) -> list[Finding]:
        given: dict[str, object] = {"keys": (KEY,), **settings}
        found = diagnose(Settings(path, **given), full=full)  # type: ignore[arg-type]
        return [finding for finding in found.findings if finding.check == check]

    return findings


def worst(found: list[Finding], level: Level | None = None, text: str = "") -> Finding:
    """Return the one finding of a check that is not ``ok``, with this level and text."""
    [finding] = [finding for finding in found if finding.level is not Level.OK]
    assert level is None or finding.level is level
    assert text in finding.message
    return finding
