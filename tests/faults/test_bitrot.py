"""One wrong byte or a missing end: a named error or the right secret, never a wrong one."""

from __future__ import annotations

import base64
import binascii
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from nextcloud_mcp_server.crypto import verification
from nextcloud_mcp_server.crypto.key import Key
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.secret import SecretBytes
from tests.faults import bitrot
from tests.faults.bitrot import Damage, Encrypt, Results, Specimen
from tests.faults.trials import SEED, Trials, sample, scaled, seeded
from tests.support.contents import KEY, encrypted
from tests.support.invariants import decrypted

FLIPS, CUTS = 2_000, 500

#: One of four damaged databases is old, so that the start migrates it.
KINDS: dict[str, tuple[Callable[[Path, Encrypt], Specimen], Damage, int]] = {
    "flipped at head": (bitrot.at_head, bitrot.flip, FLIPS * 3 // 4),
    "flipped and old": (bitrot.old, bitrot.flip, FLIPS // 4),
    "cut off at head": (bitrot.at_head, bitrot.cut, CUTS * 3 // 4),
    "cut off and old": (bitrot.old, bitrot.cut, CUTS // 4),
}

#: The maximal number of databases of a test.
PART = 400
PARTS = [(k, n) for k, (_, _, full) in KINDS.items() for n in range(-(-full // PART))]

#: Error codes of a start and of a migration on a damaged database.
REFUSALS = {
    *("corrupt", "not-a-database", "inconsistent", "foreign", "unknown-revision"),
    *("ambiguous-version", "migration-failed", "backup-failed", "wrong-key", "unreadable"),
    # The change counter in the header says that the -wal belongs to another state of the file.
    *("undecryptable", "io-error", "orphaned"),
}


pytestmark = pytest.mark.usefixtures("quiet")


async def _damaged(
    specimen: Specimen, damage: Damage, trials: int, workspace: Path, name: str
) -> Results:
    rng, found = seeded(name), Results()
    for number in range(trials):
        path = specimen.put(workspace / "faulty")
        done = f"seed {SEED}, {name} {number}: {damage(rng, path)}"
        await found.add(path, specimen.secrets, done)
    return found


@pytest.mark.parametrize(("kind", "part"), PARTS)
async def test_damage_is_named_and_no_secret_is_wrong(
    kind: str, part: int, workspace: Path, trials: Trials
) -> None:
    """A damaged database is a named error, or each secret is right, an error or missing."""
    make, damage, full = KINDS[kind]
    number = scaled(full // sum(other == kind for other, _ in PARTS))
    found = await _damaged(make(workspace, encrypted), damage, number, workspace, f"{kind} {part}")
    trials.count(f"databases {kind.rpartition(' ')[0].rpartition(' ')[0]}", times=number)
    assert found.wrong == []
    assert found.created == []
    assert found.starts.keys() <= REFUSALS | {"nothing", "stamp", "upgrade"}
    assert found.reads.keys() <= {"right", "not there", "corrupt", "undecryptable", "unreadable"}
    # A few may all be refused.
    assert found.reads["right"] > 0 or number < 10


def _plain(path: Path, user: str) -> str | None:
    """Return the secret that plain SQL finds."""
    query = "SELECT encrypted_token FROM refresh_tokens WHERE user_id = ?"
    with closing(sqlite3.connect(path)) as connection, suppress(sqlite3.DatabaseError):
        for (secret,) in connection.execute(query, (user,)):
            return decrypted(KEY, secret)
    return None


async def test_a_damaged_index_returns_no_secret_of_another_user(workspace: Path) -> None:
    """An index that leads to another user's row is `corrupt`; plain SQL reads that row."""
    specimen, found = bitrot.at_head(workspace, encrypted), Results()
    misled = 0
    flips = [*bitrot.index_flips(specimen.put(workspace / "faulty"))]
    for user, offset, mask in sample(flips, "index"):
        path = specimen.put(workspace / "faulty")
        [*_] = bitrot.index_flips(path)
        content = bytearray(path.read_bytes())
        content[offset] ^= mask
        path.write_bytes(content)
        one = ("refresh_tokens", user, "encrypted_token")
        await found.add(path, {one: specimen.secrets[one]}, f"byte {offset} ^ {mask:#x}")
        misled += _plain(path, user) not in {None, specimen.secrets[one]}
    assert found.wrong == []
    assert found.reads["corrupt"] >= misled > 0


class _NoCipher(Keyring):
    """Base64 in place of encryption: it does not detect a changed value."""

    def opened_fernet(self, raw: bytes) -> tuple[Key, SecretBytes] | None:
        """Decode any text."""
        try:
            plaintext = base64.b64decode(raw).decode("utf-8", "replace").encode()
            return self.keys[0], SecretBytes(plaintext)
        except binascii.Error:
            return self.keys[0], SecretBytes(b"nothing")


async def test_the_harness_detects_an_unauthenticated_cipher(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: with base64 in place of encryption a wrong secret is detected."""
    specimen = bitrot.at_head(workspace, lambda secret: base64.b64encode(secret.encode() * 20))
    longer = {name: secret * 20 for name, secret in specimen.secrets.items() if "user-" in name[1]}
    monkeypatch.setattr(verification, "verified_keyring", lambda *_: _NoCipher([KEY]))
    specimen = Specimen(specimen.path, longer)
    for attempt in range(60):
        if (await _damaged(specimen, bitrot.flip, 10, workspace, f"control {attempt}")).wrong:
            return
    pytest.fail("no wrong secret was detected")
