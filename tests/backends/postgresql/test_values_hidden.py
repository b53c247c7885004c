"""An error of a migration on a server has no row in it."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import Final

import psycopg
import pytest

from nextcloud_mcp_server import migrations
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from tests.secrecy import life
from tests.secrecy.planted import KEYS, found_in
from tests.secrecy.test_frames import locals_of
from tests.support.postgresql import Server


async def _fill(url: str) -> None:
    async with RefreshTokenStorage(url, encryption_key=KEYS["key"]) as store:
        await life.fill(store)


#: What refuses a row, and has it in its detail.
REFUSALS: Final = {
    "a constraint": "ALTER TABLE refresh_tokens ADD CHECK (length(user_profile) > 60)",
    "a trigger": "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE check_violation "
    "USING MESSAGE = 'no', DETAIL = NEW.user_profile; END $$ LANGUAGE plpgsql; "
    "CREATE TRIGGER refuse BEFORE UPDATE ON refresh_tokens "
    "FOR EACH ROW EXECUTE FUNCTION refuse()",
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_row_of_a_downgrade_is_shown_nowhere(
    refusal: str,
    postgresql_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither message, cause, context, locals, log nor the server's log has the decrypted row."""
    caplog.set_level(logging.DEBUG)
    _, url = postgresql_server.schema()
    asyncio.run(_fill(url))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(REFUSALS[refusal])
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEYS["key"])
    with pytest.raises(TokenStorageError) as caught:
        migrations.downgrade_database(url, "010")
    assert caught.value.code == "migration-failed"
    assert caught.value.__cause__ is not None
    printed = "".join(traceback.format_exception(caught.value))
    assert "CheckViolation" in printed
    for shown in (printed, locals_of(caught.value), caplog.text):
        assert found_in(shown.encode()) == set()
    log = (postgresql_server.folder / "log").read_bytes()
    assert found_in(log) == set()
