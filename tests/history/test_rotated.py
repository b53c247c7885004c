"""The keys of each old database can be rotated after its first start, and no secret is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.settings import Settings
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


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_every_secret_is_readable_with_the_new_key_alone(case: Case, tmp_path: Path) -> None:
    """A start, a rotation, and a store without the old key; what no key opens is kept."""
    path, new = tmp_path / "tokens.db", Fernet.generate_key().decode()
    case.write(path)
    before = snapshot(path)
    prepare(path)
    secrets = {**invariants.secrets_in(before, case.key, case.adopted), **case.secrets}
    middle = snapshot(path)
    if not secrets:
        return
    done = rotate(Settings(path, (new, case.key)))
    after = snapshot(path)
    assert done.census.older == {}
    assert invariants.secrets_in(after, case.key) == {}
    assert {n: len(rows) for n, rows in after.rows.items()} == {
        n: len(rows) for n, rows in middle.rows.items()
    }
    lost = {(secret.table, secret.column) for secret in done.census.unopened}
    for table, name in lost:
        assert kept(middle.rows[table], name) & kept(after.rows[table], name)
    async with RefreshTokenStorage(path, encryption_key=new) as storage:
        assert await invariants.read_through_the_store(storage, secrets) == secrets


def kept(rows: list[Row], name: str) -> set[object]:
    """Return the stored values of a column."""
    return {row[name][1] for row in rows}
