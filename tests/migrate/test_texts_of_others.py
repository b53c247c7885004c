"""Texts of others that begin as ours: they go up, are encrypted, and come back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from nextcloud_mcp_server.auth.oauth_sessions import OAuthSession
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.binding import binding
from nextcloud_mcp_server.crypto.key import is_v2
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.maintenance.keys.promote import introduce
from nextcloud_mcp_server.maintenance.keys.retire import retire
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.maintenance.keys.values import CHANGED
from nextcloud_mcp_server.schema.secrets import secrets_of
from nextcloud_mcp_server.settings import Settings, load_settings
from tests.migrate.test_decryption import Place, at_head
from tests.support.contents import KEY, LATER, OTHER_KEY, encrypted
from tests.support.errors import refuses
from tests.support.present import present

SESSION: Final = "v2.session-0123456789-abcdef"

#: What a released version has stored in plain text: a PASETO token, and opaque ones of a provider.
PLAIN: Final = {
    "idp_access_token": "v2.public.eyJzdWIiOiJhbGljZSJ9",
    "idp_refresh_token": f"v2.{'Ab1-_z' * 11}",
    "nonce": f"v2.{'A' * 64}",
}
PROFILE: Final = f"v2.{'z-_9' * 20}"
STATE: Final = "sha256:chosen-by-the-client"
CODE: Final = "sha256:a-code-of-a-released-version"
[FINGERPRINT] = Keyring(KEY).fingerprints


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A database of a released version at 010 with these texts, upgraded, of each engine."""
    found = at_head(request)
    found.down("010")
    found.run(
        "INSERT INTO refresh_tokens (user_id, encrypted_token, user_profile, created_at, "
        "updated_at) VALUES ('alice', :token, :profile, 1, 1)",
        token=encrypted("rt-alice"),
        profile=PROFILE,
    )
    found.run(
        "INSERT INTO oauth_sessions (session_id, client_redirect_uri, state, "
        "mcp_authorization_code, idp_access_token, idp_refresh_token, nonce, created_at, "
        "expires_at) VALUES (:id, 'http://x', :state, :code, :idp_access_token, "
        ":idp_refresh_token, :nonce, 1, :later)",
        **PLAIN,
        id=SESSION,
        state=STATE,
        code=CODE,
        later=LATER,
    )
    found.up()
    yield found
    found.close()


def settings(place: Place, *keys: str) -> Settings:
    """Return the settings of a command, with these keys (default: the one)."""
    return Settings(load_settings(database=place.name).database, keys or (KEY,))


def opened(place: Place) -> RefreshTokenStorage:
    """Return a store with the key."""
    return RefreshTokenStorage(place.name, encryption_key=KEY)


async def read(storage: RefreshTokenStorage) -> OAuthSession:
    """Check each secret of the session, by its id, its state and its code."""
    sessions = storage.oauth_sessions
    session = present(await sessions.get(SESSION))
    for found in (
        session,
        present(await sessions.get_by_state(STATE)),
        present(await sessions.get_by_code(CODE)),
    ):
        assert {name: getattr(found, name) for name in PLAIN} == PLAIN
        assert found.state == STATE
    token = present(await storage.get_refresh_token("alice"))
    assert token.token == "rt-alice"
    return session


def released(place: Place) -> None:
    """Check that everything is as a released version stored it."""
    names = [*PLAIN, "session_id", "state", "mcp_authorization_code"]
    [row] = place.run(f"SELECT {', '.join(names)} FROM oauth_sessions")
    assert row == (*PLAIN.values(), SESSION, STATE, CODE)
    assert place.one("refresh_tokens", "user_profile") == PROFILE


def test_a_downgrade_at_once_keeps_them(place: Place) -> None:
    """Without a key, as nothing was encrypted."""
    done = place.down("010")
    assert (done.encrypted, done.deleted) == ({}, {})
    released(place)


async def test_they_are_read_before_and_after_the_first_secret(place: Place) -> None:
    """And a downgrade keeps them; one that is stored again comes back as it was."""
    async with opened(place) as storage:
        await read(storage)
        # An unreadable profile, but not an undecryptable one.
        with refuses("unreadable"):
            await storage.get_user_profile("alice")
        await storage.app_passwords.store("alice", "password")
        await read(storage)
        assert await storage.oauth_sessions.update(
            SESSION,
            idp_access_token=PLAIN["idp_access_token"],
            idp_refresh_token=PLAIN["idp_refresh_token"],
        )
        await read(storage)
    assert is_v2(place.one("oauth_sessions", "idp_access_token").encode())
    done = place.down("010", KEY)
    assert done.encrypted == {"app_passwords": 1, "oauth_sessions": 2}
    assert done.deleted == {}
    released(place)


async def test_they_are_encrypted_for_their_rows(place: Place) -> None:
    """Then no plain text is accepted any more, and a downgrade takes every token back."""
    async with opened(place) as storage:
        await storage.app_passwords.store("alice", "password")
        with refuses("key-needed"):
            retire(settings(place), FINGERPRINT, fernet=True)
        census = rotate(settings(place)).census
        assert (census.unopened, census.plain) == ((), {})
        for name in PLAIN:
            text = place.one("oauth_sessions", name)
            assert text != PLAIN[name]
            assert is_v2(text.encode())
        await read(storage)
        assert retire(settings(place), FINGERPRINT, fernet=True).changed
        await read(storage)
    # The row of a session with a hashed id is of no use to a released version.
    done = place.down("010", KEY)
    assert done.deleted["oauth_sessions"] == 1
    assert done.encrypted == {"app_passwords": 1, "refresh_tokens": 2}
    assert place.one("refresh_tokens", "user_profile") == PROFILE


@pytest.mark.parametrize("name", PLAIN)
async def test_one_keeps_the_key_for_released_values(name: str, place: Place) -> None:
    """Until it is encrypted, too; one that is put there later is refused."""
    async with opened(place) as storage:
        await storage.app_passwords.store("alice", "password")
        rotate(settings(place))
        put = f"UPDATE oauth_sessions SET {name} = :text"
        place.run(put, text=PLAIN[name])
        assert getattr(await read(storage), name) == PLAIN[name]
        with refuses("key-needed", match=r"1 value of .* \(1 in oauth_sessions\)"):
            retire(settings(place), FINGERPRINT, fernet=True)
        assert rotate(settings(place)).rotated == {"oauth_sessions": 1}
        retire(settings(place), FINGERPRINT, fernet=True)
        place.run(put, text=PLAIN[name])
        with refuses("undecryptable"):
            await storage.oauth_sessions.get(SESSION)


async def test_a_text_of_a_registered_key_is_never_plain(place: Place) -> None:
    """A server without a key that is registered does not take its text for one of a provider."""
    async with opened(place) as storage:
        await storage.app_passwords.store("alice", "password")
        introduce(settings(place, OTHER_KEY, KEY))
        another = Keyring(OTHER_KEY).keys[0]
        secret = secrets_of("oauth_sessions")["nonce"]
        text = another.seal(b"a nonce", binding(secret, {"session_id": SESSION})).decode()
        place.run("UPDATE oauth_sessions SET nonce = :text", text=text)
        with refuses("undecryptable", match=another.fingerprint):
            await storage.oauth_sessions.get(SESSION)
        census = rotate(settings(place)).census
        assert [one.column for one in census.unopened] == ["nonce"]
        assert place.one("oauth_sessions", "nonce") == text
        assert rotate(settings(place, OTHER_KEY, KEY)).census.unopened == ()
        assert present(await storage.oauth_sessions.get(SESSION)).nonce == "a nonce"


@pytest.mark.parametrize("damaged", ["cut off", "another digit", "no digit"])
async def test_a_damaged_text_of_ours_is_never_plain(damaged: str, place: Place) -> None:
    """It begins with the id of a key, so that no part of it is taken for a token of a provider."""
    async with opened(place) as storage:
        await storage.oauth_sessions.update(SESSION, idp_access_token="token")
        text = place.one("oauth_sessions", "idp_access_token")
        broken = {
            "cut off": text[:40],
            "another digit": f"{text[:40]}{'A' if text[40] != 'A' else 'B'}{text[41:]}",
            "no digit": f"{text[:40]}*{text[41:]}",
        }[damaged]
        place.run("UPDATE oauth_sessions SET idp_access_token = :text", text=broken)
        with refuses("undecryptable", match="was changed"):
            await storage.oauth_sessions.get(SESSION)
        [kept] = rotate(settings(place)).census.unopened
        assert (kept.column, kept.reason) == ("idp_access_token", CHANGED)
        assert place.one("oauth_sessions", "idp_access_token") == broken
    # A session of a released version again: the row stays, and its secret is missed.
    place.run("UPDATE oauth_sessions SET session_id = :id, state = NULL", id=SESSION)
    place.run("UPDATE oauth_sessions SET mcp_authorization_code = NULL")
    with refuses("undecryptable", match="1 secret of oauth_sessions cannot be"):
        place.down("010", KEY)
