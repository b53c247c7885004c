"""The code of an entry in the audit log, and the digests of what was stored."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import fields, replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from nextcloud_mcp_server.auth.audit import AuditEntry, signature
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.binding import hashed
from tests.auth.helpers import KEYRING, NOW, tamper
from tests.cli.places import rows

[KEY] = KEYRING.keys
TEXTS = st.none() | st.text(max_size=8)
ENTRIES = st.builds(
    AuditEntry,
    st.integers(1, 2**63),
    st.integers(0, 2**40),
    *(st.text(max_size=8),) * 2,
    *(TEXTS,) * 5,
)
NAMES = [field.name for field in fields(AuditEntry) if field.name != "mac"]


@given(ENTRIES, ENTRIES)
def test_a_change_of_any_field_breaks_the_code(entry: AuditEntry, other: AuditEntry) -> None:
    """The code stays the same only if the field does; the field of the code itself is free."""
    for name in NAMES:
        changed = replace(entry, **{name: getattr(other, name)})
        same = getattr(entry, name) == getattr(other, name)
        assert (signature(changed, KEY) == signature(entry, KEY)) == same
    assert signature(replace(entry, mac="x"), KEY) == signature(entry, KEY)


async def test_every_entry_is_signed_and_names_its_ciphertexts(
    path: Path, storage: RefreshTokenStorage
) -> None:
    """The digests are those of the columns that the change has stored; a deletion has none."""
    await storage.store_refresh_token("alice", "rt")
    await storage.store_user_profile("alice", {"sub": "alice"})
    await storage.oauth_clients.store(
        "c", "secret", redirect_uris=[], registration_access_token="rat"
    )
    session = "session-0123456789abcdef"
    await storage.oauth_sessions.create(session, "http://x/", expires_at=NOW, state="state")
    await storage.oauth_sessions.update(session, idp_access_token="at", idp_refresh_token="rt")
    await storage.oauth_sessions.update(session, user_id="alice")
    await storage.audit.add("login", "alice")
    stored = {
        f"{table}.{column}": value
        for table, columns in {
            "refresh_tokens": ["encrypted_token", "user_profile"],
            "oauth_clients": ["encrypted_client_secret", "encrypted_registration_access_token"],
            "oauth_sessions": ["encrypted_state", "idp_access_token", "idp_refresh_token"],
        }.items()
        for column in columns
        for [value] in rows(path, f"SELECT CAST({column} AS BLOB) FROM {table}")
    }
    await storage.delete_refresh_token("alice")
    entries = (await storage.audit.list())[::-1]
    for entry in entries:
        assert entry.mac == signature(entry, KEY)
    named: list[set[str]] = []
    for entry in entries:
        parts = dict(part.split("=", 1) for part in (entry.digest or "").split())
        for column, digest in parts.items():
            raw = hashlib.sha256(stored[column]).digest()
            assert digest == base64.urlsafe_b64encode(raw).decode().rstrip("=")
        named.append(set(parts))
    assert named == [
        {"refresh_tokens.encrypted_token"},
        {"refresh_tokens.user_profile"},
        {
            "oauth_clients.encrypted_client_secret",
            "oauth_clients.encrypted_registration_access_token",
        },
        {"oauth_sessions.encrypted_state"},
        {"oauth_sessions.idp_access_token", "oauth_sessions.idp_refresh_token"},
        set(),
        set(),
        set(),
    ]
    assert [entry.resource_id for entry in entries[3:6]] == [hashed(session)] * 3
    tamper(path, "UPDATE audit_logs SET user_id = 'bob' WHERE event = 'login'")
    [forged] = await storage.audit.list("bob")
    assert forged.mac != signature(forged, KEY)
