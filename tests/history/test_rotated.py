"""The keys of each old database can be rotated after its first start, and no secret is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest
from cryptography.fernet import Fernet

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.keys.promote import introduce, promote
from nextcloud_mcp_server.maintenance.keys.retire import retire
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.settings import Settings
from tests.faults.trials import half
from tests.history import corpus, released_files
from tests.history.case import Case
from tests.support import invariants
from tests.support.by_path import prepare
from tests.support.snapshot import Row, snapshot

CASES = [
    case
    for case in (*released_files.recorded(), *corpus.all_cases())
    if not case.refusal and case.action != "create"
]

#: A rotation registers keys, and records what it stores.
GROWING = {"keys", "audit_logs"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_every_secret_is_readable_with_the_new_key_alone(case: Case, tmp_path: Path) -> None:
    """A start, a rotation, and a store without the old key; what no key opens is kept.

    Only a value that no key opens keeps the key of the old format from being retired.
    """
    path, new = tmp_path / "tokens.db", Fernet.generate_key().decode()
    case.write(path)
    before = snapshot(path)
    prepare(path)
    secrets = {**invariants.secrets_in(before, case.key, case.adopted), **case.secrets}
    middle = snapshot(path)
    if not secrets:
        return
    settings = Settings(path, (new, case.key))
    first, last = Keyring([new, case.key]).fingerprints
    introduce(settings, first)
    promote(settings, first)
    done = rotate(settings)
    after = snapshot(path)
    assert {table: number for table, number in done.census.pending.items() if number} == {}
    assert invariants.secrets_in(after, case.key) == {}
    assert {n: len(rows) for n, rows in after.rows.items() if n not in GROWING} == {
        n: len(rows) for n, rows in middle.rows.items() if n not in GROWING
    }
    lost = {(secret.table, secret.column) for secret in done.census.unopened}
    for table, name in lost:
        assert kept(middle.rows[table], name) & kept(after.rows[table], name)
    # Nobody knows which of two given keys a released version has used.
    retire(settings, first, fernet=True)
    if lost:
        with pytest.raises(TokenStorageError) as caught:
            retire(settings, last, fernet=True)
        assert caught.value.code == "key-needed"
    else:
        retire(settings, last, fernet=True)
        assert retire(settings, last) == (last, "v2", "retired", True)
    async with RefreshTokenStorage(path, encryption_key=new) as storage:
        assert await invariants.read_through_the_store(storage, secrets) == secrets


def kept(rows: list[Row], name: str) -> set[object]:
    """Return the stored values of a column."""
    return {row[name][1] for row in rows}


@pytest.mark.parametrize("case", half(CASES), ids=lambda case: case.name)
async def test_what_is_read_can_be_stored_again(case: Case, tmp_path: Path) -> None:
    """A refreshed token keeps the scopes that an old release stored, and so do the others."""
    path = tmp_path / "tokens.db"
    case.write(path)
    secrets = invariants.secrets_in(snapshot(path), case.key, case.adopted)
    async with RefreshTokenStorage(path, encryption_key=case.key) as storage:
        for user in {row for table, row, _ in secrets if table == "refresh_tokens"}:
            token = await storage.get_refresh_token(user)
            assert token is not None
            facts = {
                name: getattr(token, name)
                for name in (
                    *("expires_at", "scopes", "flow_type", "token_audience"),
                    *("provisioned_at", "provisioning_client_id"),
                )
            }
            await storage.store_refresh_token(user, token.token, **facts)
            assert await storage.get_refresh_token(user) == replace(
                token, updated_at=ANY, created_at=ANY
            )
        for user in {row for table, row, _ in secrets if table == "app_passwords"}:
            password = await storage.app_passwords.get(user)
            assert password is not None
            await storage.app_passwords.store(
                user, password.password, scopes=password.scopes, username=password.username
            )
        for user in {row for table, row, _ in secrets if table == "login_flow_sessions"}:
            flow = await storage.login_flows.get(user)
            assert flow is not None
            await storage.login_flows.store(
                user,
                flow.poll_token,
                flow.poll_endpoint,
                expires_at=flow.expires_at,
                requested_scopes=flow.requested_scopes,
            )
