"""The installed program replaces the key of a released database while two servers run."""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest
from cryptography.fernet import Fernet

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.keyring import Keyring
from tests.oauth.person import Browser, Client, Served, answer
from tests.support import invariants
from tests.support.contents import KEY
from tests.support.nextcloud.server import StandIn, running
from tests.support.shapes import at
from tests.support.snapshot import snapshot
from tests.wheel.conftest import Installed

NEW = Fernet.generate_key().decode()
NEWEST, OLDER = (Keyring(key).fingerprints[0] for key in (NEW, KEY))


class Place:
    """An empty folder with a database, and the installed program."""

    def __init__(self, installed: Installed, folder: Path, nextcloud: StandIn) -> None:
        self.installed, self.folder, self.nextcloud = installed, folder, nextcloud
        self.database = folder / "data" / "tokens.db"
        self.database.parent.mkdir()
        self.file = folder / "keys" / "tokens.key"
        self.file.parent.mkdir()
        self.give(KEY)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def give(self, *keys: str) -> None:
        """Write the keys into the file, in one step as the guide says."""
        new = self.file.with_suffix(".new")
        new.touch(0o600)
        new.write_text("".join(f"{key}\n" for key in keys))
        new.replace(self.file)

    def settings(self, **keys: str) -> dict[str, str]:
        """Return the variables of a process; its keys are in the file, if they are not given."""
        found = keys or {"TOKEN_ENCRYPTION_KEY_FILE": str(self.file)}
        return {
            "TOKEN_STORAGE_DB": str(self.database),
            "NEXTCLOUD_HOST": self.nextcloud.url,
            "PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            **found,
        }

    def keys(self, *arguments: str) -> list[str]:
        """Run a command of the group keys, and return its lines."""
        done = self.installed.run(
            *("keys", *arguments, "-d", str(self.database)),
            cwd=self.folder,
            settings=self.settings(),
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout.splitlines()

    def store_as_released(self, user: str) -> None:
        """Store the app password of a user as the released version did, with the old key."""
        [password] = self.nextcloud.state.users[user].app_passwords
        sql = "UPDATE app_passwords SET encrypted_password = ? WHERE user_id = ?"
        with closing(sqlite3.connect(self.database, timeout=30)) as connection, connection:
            connection.execute(sql, (Fernet(KEY).encrypt(password.encode()), user))

    def states(self) -> dict[tuple[str, str], str]:
        """Return the state of each registered key, by kind and fingerprint."""
        listed: list[dict[str, Any]] = json.loads("".join(self.keys("list", "--json")))["keys"]
        return {(key["kind"], key["fingerprint"]): key["state"] for key in listed}

    @contextmanager
    def server(self, port: int = 0, **keys: str) -> Iterator[Served]:
        """Run a server until the ``with`` block ends."""
        with self.installed.serving(self.folder, self.settings(**keys), port) as url:
            yield Served(url, self.database, self.nextcloud)


class Calls:
    """Calls a tool at a server, again and again, until the ``with`` block ends."""

    def __init__(self, served: Served, token: str) -> None:
        self.made = 0
        self.failed: list[str] = []
        self._served, self._token = served, token
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with Client(self._served) as client:
            while not self._ended.is_set():
                problem = called(client, self._token)
                self.made += 1
                self.failed += [problem] if problem else []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)


def called(client: Client, token: str) -> str:
    """Call a tool, which reads the app password; return what failed."""
    try:
        response = client.call(token)
    except httpx2.HTTPError as error:
        return repr(error)
    # The answer is an event or a document.
    text = response.text.rpartition("data: ")[2] or response.text
    result = json.loads(text).get("result", {}) if response.status_code == 200 else {}
    return "" if result and not result.get("isError") else f"{response.status_code} {text}"


def signed_in(served: Served, user: str) -> str:
    """Sign a person in, which stores an app password; return an access token."""
    with Browser(served) as browser, Client(served) as client:
        client.register()
        code = answer(browser.sign_in(client.url(), user))["code"]
        token: str = client.redeem(code).json()["access_token"]
    return token


async def test_the_key_of_a_released_database_is_replaced(
    installed: Installed, tmp_path: Path
) -> None:
    """Every call of a tool succeeds in all phases, and the old key opens nothing in the end."""
    with running() as nextcloud, ExitStack() as stack:
        place = Place(installed, tmp_path, nextcloud)
        at("010", "portable").write(place.database)
        before = invariants.secrets_in(snapshot(place.database), KEY)
        one = stack.enter_context(place.server(place.port))
        token = signed_in(one, "alice")
        # So the calls read what a released version has stored, until it is rotated.
        place.store_as_released("alice")
        steady = stack.enter_context(Calls(one, token))

        with place.server(TOKEN_ENCRYPTION_KEY=KEY) as other, Calls(other, token) as calls:
            place.give(NEW, KEY)
            assert place.keys("introduce")[0].startswith(f"key {NEWEST} is introduced")
            signed_in(one, "bob")
        assert (calls.failed, calls.made > 0) == ([], True)

        # The one with its keys in a variable has to be restarted.
        with (
            place.server(TOKEN_ENCRYPTION_KEY=f"{NEW};{KEY}") as other,
            Calls(other, token) as calls,
        ):
            assert place.keys("promote", NEWEST)[0] == f"key {NEWEST} encrypts now"
            token_of_bob = signed_in(one, "bob")
            place.keys("rotate")
            place.keys("retire", OLDER, "--fernet")
            place.keys("retire", OLDER)
            place.give(NEW)
            with Client(other) as client:
                assert called(client, token_of_bob) == ""
        assert (calls.failed, calls.made > 0) == ([], True)
        assert (steady.failed, steady.made > 0) == ([], True)
        states = place.states()
    assert {name for name, state in states.items() if state != "retired"} == {("v2", NEWEST)}
    async with RefreshTokenStorage(place.database, encryption_key=NEW) as storage:
        kept = await invariants.read_through_the_store(storage, before)
    # Alice has got a new app password by signing in.
    changed = {key for key in before if kept.get(key) != before[key]}
    assert changed == {("app_passwords", "alice", "encrypted_password")}


@pytest.mark.parametrize("keys", [(KEY,), (NEW, KEY)], ids=["without", "with"])
def test_calls_fail_without_the_promoted_key(
    installed: Installed, tmp_path: Path, keys: tuple[str, ...]
) -> None:
    """The control of the test above: a server without the new key fails as soon as it encrypts."""
    with running() as nextcloud:
        place = Place(installed, tmp_path, nextcloud)
        with place.server(place.port, TOKEN_ENCRYPTION_KEY=";".join(keys)) as served:
            token = signed_in(served, "alice")
            place.give(NEW, KEY)
            place.keys("introduce", NEWEST)
            place.keys("promote", NEWEST)
            place.keys("rotate")
            with Client(served) as client:
                assert (called(client, token) == "") is (len(keys) == 2)
