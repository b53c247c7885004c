"""A secret counts as BLOB and as TEXT in any column, whatever the encoding of the file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.maintenance.keys.census import count_secrets
from nextcloud_mcp_server.maintenance.keys.promote import introduce, promote
from nextcloud_mcp_server.maintenance.keys.retire import retire
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.migrate import change
from nextcloud_mcp_server.schema.secrets import HASHED, SECRETS
from tests.cli.places import rows
from tests.maintenance.keys.helpers import (
    LOST,
    NEW,
    NEWEST,
    OLDER,
    given,
    grant,
    opened,
    plaintexts,
    secrets,
)
from tests.support.contents import KEY, OTHER_KEY, REFRESH_TOKENS
from tests.support.errors import refuses
from tests.support.revisions import HEAD
from tests.support.shapes import at

COLUMNS = [(secret.table, secret.column) for secret in SECRETS] + list(HASHED)


@pytest.fixture(params=["UTF-8", "UTF-16le", "UTF-16be"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A database of each encoding, at head, with values of released versions in every table."""
    path = tmp_path / "tokens.db"
    at(HEAD).write(path, [f"encoding='{request.param}'"])
    path.chmod(0o600)
    assert rows(path, "PRAGMA encoding") == [(request.param,)]
    return path


@pytest.fixture(params=[bytes, str])
def kind(request: pytest.FixtureRequest) -> type:
    """What every value is stored as: a BLOB or a TEXT."""
    made: type = request.param
    return made


def store_as(path: Path, kind: type) -> None:
    """Store each secret and each hashed id as a BLOB or as a TEXT, whatever its column is for."""
    with opened(path) as connection:
        for table, name in COLUMNS:
            for at_row, value in connection.execute(
                f"SELECT rowid, {name} FROM {table} WHERE {name} IS NOT NULL"
            ).fetchall():
                raw = value if isinstance(value, bytes) else value.encode()
                connection.execute(
                    f"UPDATE {table} SET {name} = ? WHERE rowid = ?",
                    (raw if kind is bytes else raw.decode(), at_row),
                )
            types = connection.execute(
                f"SELECT DISTINCT typeof({name}) FROM {table} WHERE {name} IS NOT NULL"
            ).fetchall()
            assert types in ([], [("blob" if kind is bytes else "text",)])


def by_table(path: Path) -> Counter[str]:
    """Return the number of secrets of each table."""
    return Counter(table for table, _, _ in secrets(path))


def test_each_text_of_a_key_is_counted_before_it_is_retired(filled: Path, kind: type) -> None:
    """With one uncounted, its key would be retired and removed, and the secret lost."""
    rotate(given(filled, KEY))
    store_as(filled, kind)
    before, number = plaintexts(filled, KEY), by_table(filled)
    introduce(given(filled), NEWEST)
    promote(given(filled), NEWEST)
    census = count_secrets(given(filled))
    assert (census.unopened, census.plain, +Counter(census.pending)) == ((), {}, number)
    # Nothing is in the format of a released version.
    assert retire(given(filled), OLDER, fernet=True).changed
    where = ", ".join(f"{n} in {table}" for table, n in sorted(number.items()))
    with refuses("key-needed", match=rf"{number.total()} values of .* \({where}\)"):
        retire(given(filled), OLDER)
    assert sum(rotate(given(filled)).census.pending.values()) == 0
    assert retire(given(filled), OLDER).changed
    assert plaintexts(filled, NEW) == before


def test_one_text_keeps_its_key(filled: Path, kind: type) -> None:
    """In each column: all the others are of the key that encrypts."""
    rotate(given(filled, KEY))
    introduce(given(filled), NEWEST)
    promote(given(filled), NEWEST)
    old = secrets(filled)
    rotate(given(filled))
    new = secrets(filled)
    retire(given(filled), OLDER, fernet=True)
    for table, name in {(table, column): None for table, column, _ in old}:
        place = next(one for one in old if one[:2] == (table, name))
        value = old[place]
        raw = value if isinstance(value, bytes) else value.encode()
        update = f"UPDATE {table} SET {name} = ? WHERE rowid = {place[2]}"
        with opened(filled) as connection:
            connection.execute(update, (raw if kind is bytes else raw.decode(),))
        with refuses("key-needed", match=rf"1 value of .* \(1 in {table}\)"):
            retire(given(filled), OLDER)
        with opened(filled) as connection:
            connection.execute(update, (new[place],))
    assert retire(given(filled), OLDER).changed


def test_a_fernet_key_that_a_value_needs_is_kept(filled: Path, kind: type) -> None:
    """Also beside another one: the values are opened, so their bytes must be those of the text."""
    grant(filled, "other", Fernet(OTHER_KEY).encrypt(b"other"))
    store_as(filled, kind)
    settings = given(filled, NEW, KEY, OTHER_KEY)
    # A given key opens what is there.
    assert introduce(settings).fingerprint == NEWEST
    for name in (OLDER, LOST):
        with refuses("key-needed"):
            retire(settings, name, fernet=True)
    rotate(settings)
    for name in (OLDER, LOST, NEWEST):
        assert retire(settings, name, fernet=True).changed


async def test_a_store_reads_and_writes_it(filled: Path, kind: type) -> None:
    """The right key is not refused by the first secret, and every token is read."""
    store_as(filled, kind)
    for keys in ([KEY], [NEW, KEY]):
        async with RefreshTokenStorage(filled, encryption_key=keys) as storage:
            await storage.store_refresh_token("new", "new")
            for user, token in REFRESH_TOKENS.items():
                found = await storage.get_refresh_token(user)
                assert found is not None
                assert found.token == token
    with opened(filled) as connection:
        [(kinds,)] = connection.execute("SELECT group_concat(DISTINCT kind) FROM keys")
    assert set(kinds.split(",")) == {"v2", "fernet"}
    assert Keyring(KEY).fingerprints == (OLDER,)


def test_a_downgrade_decrypts_it(filled: Path, kind: type) -> None:
    """Each token is one of a released version again; nothing of the second format is left."""
    rotate(given(filled, KEY))
    store_as(filled, kind)
    done = change.downgrade(connect(filled), "010", keyring=Keyring(KEY))
    assert done.encrypted["refresh_tokens"] == 1 + len(REFRESH_TOKENS)
    fernet = Fernet(KEY)
    found = rows(filled, "SELECT user_id, encrypted_token FROM refresh_tokens")
    assert {user: fernet.decrypt(value).decode() for user, value in found} == REFRESH_TOKENS
    [(profile,)] = rows(filled, "SELECT user_profile FROM refresh_tokens WHERE user_id = 'alice'")
    assert profile.startswith("{")
