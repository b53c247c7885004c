"""The sources of keys, and that a start without the right key changes nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.crypto import keyfile
from nextcloud_mcp_server.crypto.keyfile import find_keyring, given_keyring, key_path
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.verification import verified_keyring
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.settings import Settings
from tests.support import invariants
from tests.support.child import child
from tests.support.contents import KEY, OTHER_KEY
from tests.support.dead_file import dead_file
from tests.support.errors import refused, refuses
from tests.support.files import names
from tests.support.keys import promote
from tests.support.present import present
from tests.support.shapes import at

THIRD = "Z8hHcNYb4m1bbLk6tM9vE2n0sR3yqWJxAoKdUeTfGiQ="


@pytest.fixture(autouse=True)
def private() -> Iterator[None]:
    """A key file that a test writes beside a database is private."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def holding(*values: bytes) -> Callable[[int | None], Iterable[bytes]]:
    """The samples of a database that holds these encrypted values."""
    return lambda limit: iter(values[:limit])


def sealed(key: str, times: int = 1) -> tuple[bytes, ...]:
    """Values that ``key`` opens."""
    return tuple(Fernet(key).encrypt(b"secret") for _ in range(times))


async def start(path: Path, **options: object) -> None:
    """Open a store on ``path`` and close it."""
    async with RefreshTokenStorage(path, settings=Settings(path, **options)):  # type: ignore[arg-type]
        pass


async def is_refused(path: Path, code: str, **options: object) -> None:
    """Check that a start raises the error of this code and changes nothing."""
    with invariants.unchanged(path), refuses(code):
        await start(path, **options)


def test_given_keys_win(tmp_path: Path) -> None:
    """A key of the caller wins over the variable, and that over the file it names."""
    file = tmp_path / "key"
    file.write_text(THIRD)
    database = tmp_path / "tokens.db"
    every = Settings(database, (OTHER_KEY,), file)
    for keys, settings, winner in (
        (KEY, every, KEY),
        ([KEY, THIRD], every, KEY),
        (KEY.encode(), every, KEY),
        (None, every, OTHER_KEY),
        (None, Settings(database, key_file=file), THIRD),
    ):
        found = present(given_keyring(keys, settings))
        assert found.fingerprints[0] == Keyring([winner]).fingerprints[0]
    assert given_keyring(None, Settings(database)) is None


def test_a_file_may_hold_several_keys(tmp_path: Path) -> None:
    """In a file, keys stand in lines of their own or with semicolons, newest first."""
    file = tmp_path / "key"
    file.write_text(f"{KEY};\n\n {OTHER_KEY}\r\n")
    found = present(given_keyring(None, Settings(tmp_path / "tokens.db", key_file=file)))
    assert found.fingerprints == Keyring([KEY, OTHER_KEY]).fingerprints


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_key_file_of_any_editor_is_read(end: str, tmp_path: Path) -> None:
    """A byte order mark and the line ends of another system are no part of a key."""
    file = tmp_path / "key"
    file.write_bytes(f"\ufeff{KEY}{end}{OTHER_KEY}{end}".encode())
    found = present(given_keyring(None, Settings(tmp_path / "tokens.db", key_file=file)))
    assert found.fingerprints == Keyring([KEY, OTHER_KEY]).fingerprints


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_key_file_in_utf_16_is_read_if_it_has_a_mark(encoding: str, tmp_path: Path) -> None:
    """PowerShell's `>` writes UTF-16; without its mark the remedy is to save it as UTF-8."""
    file = tmp_path / "key"
    settings = Settings(tmp_path / "tokens.db", key_file=file)
    file.write_bytes(f"\ufeff{KEY}\r\n{OTHER_KEY}\r\n".encode(encoding))
    found = present(given_keyring(None, settings))
    assert found.fingerprints == Keyring([KEY, OTHER_KEY]).fingerprints
    for content in (f"{KEY}\r\n".encode(encoding), b"\xff\xfe\x00", b"\xe4"):
        file.write_bytes(content)
        with refuses("key-missing", "is not text in UTF-8") as caught:
            given_keyring(None, settings)
        assert caught.value.remedy.startswith("Save it as UTF-8")


async def test_a_folder_as_key_file_is_one_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no regular file is refused, without a warning about its mode before."""
    folder = tmp_path / "key"
    folder.mkdir()
    folder.chmod(0o755)
    settings = Settings(tmp_path / "tokens.db", key_file=folder)
    with pytest.raises(TokenStorageError, match="folder") as caught:
        await RefreshTokenStorage(None, settings=settings).initialize()
    assert caught.value.code == "key-missing"
    assert "the key file" not in caplog.text


@pytest.mark.parametrize("name", ["named", "tokens.db.key"])
async def test_a_pipe_as_key_file_is_refused_at_once(name: str, tmp_path: Path) -> None:
    """A start does not wait for a pipe, named in the settings or beside the database."""
    os.mkfifo(tmp_path / name)
    settings = Settings(
        tmp_path / "tokens.db", key_file=tmp_path / name if name == "named" else None
    )
    async with asyncio.timeout(5):
        with pytest.raises(TokenStorageError, match="is a named pipe") as caught:
            await RefreshTokenStorage(None, settings=settings).initialize()
    assert caught.value.code == "key-missing"


async def test_a_dead_file_system_of_the_key_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the key file cannot be read in time, the start fails, before the lock and off the loop."""
    monkeypatch.setattr(keyfile, "_PATIENCE", 1.0)
    ticks = 0
    with dead_file(tmp_path / "secrets") as file:
        settings = Settings(tmp_path / "tokens.db", key_file=file)
        start = asyncio.ensure_future(RefreshTokenStorage(None, settings=settings).initialize())
        while not start.done():
            await asyncio.sleep(0.01)
            ticks += 1
    with pytest.raises(TokenStorageError, match="does not answer") as caught:
        await start
    assert caught.value.code == "key-missing"
    assert ticks > 10, "the event loop was blocked"
    assert names(tmp_path) == {"secrets"}


@pytest.mark.parametrize("content", [None, b"", b" ;\n", b"\xff\xfe", "folder"])
def test_a_named_file_without_a_key_is_a_missing_key(
    content: bytes | str | None, tmp_path: Path
) -> None:
    """The error for a missing, empty or unreadable key file has its path."""
    file = tmp_path / "key"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content:
        file.mkdir()
    error = refused(
        lambda: given_keyring(None, Settings(tmp_path / "t.db", key_file=file)), "key-missing"
    )
    assert str(file) in error.message


@pytest.mark.parametrize("text", [KEY[:-1], f"{KEY}x", f"{KEY},{KEY}", "A" * 43 + "="])
def test_a_malformed_key_in_a_file_is_not_repeated(text: str, tmp_path: Path) -> None:
    """What may be most of a key stands in no message."""
    file = tmp_path / "key"
    file.write_text(text)
    error = refused(
        lambda: given_keyring(None, Settings(tmp_path / "t.db", key_file=file)), "malformed-key"
    )
    assert text[:20] not in f"{error.as_dict()}"


def test_one_key_that_opens_one_value_is_enough(tmp_path: Path) -> None:
    """A database with values of several keys opens with one of them."""
    ring = Keyring([KEY])
    mixed = (*sealed(OTHER_KEY, 40), *sealed(KEY))
    assert verified_keyring(ring, holding(*mixed), tmp_path / "t.db") is ring
    assert verified_keyring(ring, holding(), tmp_path / "t.db") is ring


def test_keys_that_open_nothing_are_wrong(tmp_path: Path) -> None:
    """If no key opens any of many values, the start is refused."""
    refused(
        lambda: verified_keyring(Keyring([KEY]), holding(*sealed(THIRD, 40)), tmp_path / "t.db"),
        "wrong-key",
    )


def test_a_key_is_made_once_and_privately(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The new key file is complete and 0600; the log has its path, not the key."""
    database = tmp_path / "tokens.db"
    with caplog.at_level(logging.WARNING):
        made = verified_keyring(None, holding(), database)
    file = key_path(database)
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]
    assert str(file) in caplog.text
    assert file.read_text().strip() not in caplog.text
    caplog.clear()
    assert verified_keyring(None, holding(), database).fingerprints == made.fingerprints
    assert caplog.records == []


def test_a_link_to_a_secret_that_is_not_mounted_is_a_missing_key(tmp_path: Path) -> None:
    """A key file that is a dead link is not replaced by a new key."""
    database = tmp_path / "tokens.db"
    key_path(database).symlink_to(tmp_path / "secrets" / "key")
    refused(lambda: verified_keyring(None, holding(), database), "key-missing")
    assert key_path(database).is_symlink()


def test_a_key_that_another_start_made_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If two starts are not kept apart by a lock, the second uses the key of the first."""
    database = tmp_path / "tokens.db"
    generate = Fernet.generate_key

    def late() -> bytes:
        key_path(database).write_text(OTHER_KEY)
        return generate()

    monkeypatch.setattr(Fernet, "generate_key", late)
    found = verified_keyring(None, holding(), database)
    assert found.fingerprints == Keyring([OTHER_KEY]).fingerprints
    assert key_path(database).read_text() == OTHER_KEY


def test_a_disk_without_hard_links_gets_a_whole_key_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system without hard links, the key file is renamed."""
    monkeypatch.setattr("os.link", _cannot_link)
    made = verified_keyring(None, holding(), tmp_path / "tokens.db")
    [file] = tmp_path.iterdir()
    assert Keyring([file.read_text().strip()]).fingerprints == made.fingerprints


def _cannot_link(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({}, "key-missing"),
        ({"keys": (THIRD,)}, "wrong-key"),
        ({"keys": (OTHER_KEY, THIRD)}, "wrong-key"),
        ({"keys": ("short",)}, "malformed-key"),
    ],
)
@pytest.mark.parametrize("revision", ["001", "006", "010"])
async def test_a_start_without_the_key_changes_nothing(
    options: dict[str, tuple[str, ...]], code: str, revision: str, tmp_path: Path
) -> None:
    """Without the right key nothing is migrated, backed up or made, whatever the revision."""
    path = tmp_path / "tokens.db"
    at(revision).write(path)
    await is_refused(path, code, **options)
    assert names(tmp_path) <= {"tokens.db", "tokens.db.lock"}


async def test_a_recreation_that_was_cut_short_still_needs_its_key(tmp_path: Path) -> None:
    """Grants in the copy of a lost table count: no new key is made beside them."""
    path = tmp_path / "tokens.db"
    shape = at("006").without("app_passwords", "oauth_clients", "login_flow_sessions")
    shape.also("ALTER TABLE refresh_tokens RENAME TO _alembic_tmp_refresh_tokens").write(path)
    await is_refused(path, "key-missing")


async def test_a_malformed_key_beside_the_database_changes_nothing(tmp_path: Path) -> None:
    """A truncated key file is refused before the old database is migrated."""
    path = tmp_path / "tokens.db"
    at("006").write(path)
    key_path(path).write_text(KEY[:40])
    key_path(path).chmod(0o600)
    await is_refused(path, "malformed-key")


async def test_text_is_read_for_keys(tmp_path: Path) -> None:
    """Encrypted values that are kept as text verify a key as well."""
    path = tmp_path / "tokens.db"
    text = "UPDATE refresh_tokens SET encrypted_token = CAST(encrypted_token AS TEXT)"
    at("010").also(text).write(path)
    await start(path, keys=(KEY,))
    with pytest.raises(TokenStorageError, match="No given key"):
        await start(path, keys=(THIRD,))


async def test_two_names_of_one_file_have_one_key(tmp_path: Path) -> None:
    """The key file is beside the database file, not beside a link to it."""
    real, link = tmp_path / "volume" / "tokens.db", tmp_path / "tokens.db"
    real.parent.mkdir()
    await start(real)
    link.symlink_to(real)
    async with RefreshTokenStorage(link, settings=Settings(link)) as store:
        await store.store_refresh_token("alice", "token")
    async with RefreshTokenStorage(real, settings=Settings(real)) as store:
        assert await store.get_refresh_token("alice") is not None
    assert names(tmp_path) == {"tokens.db", "volume"}


_STARTER = """
import asyncio, json, sys
from pathlib import Path
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.settings import Settings

async def main(path, user):
    async with RefreshTokenStorage(path, settings=Settings(path)) as storage:
        await storage.store_refresh_token(user, "token of " + user)
        print("stored", flush=True)
        sys.stdin.readline()
        tokens = [await storage.get_refresh_token(u) for u in await storage.list_user_ids()]
        print(json.dumps([t.token for t in tokens]))

print("ready", flush=True)
asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


def test_two_processes_that_start_at_once_make_one_key(tmp_path: Path) -> None:
    """Both found no key before either had the lock; each decrypts what the other encrypted."""
    path = tmp_path / "tokens.db"
    with ExitStack() as stack:
        with guard(path, 0):
            both = [stack.enter_context(child(_STARTER, path, user)) for user in ("anna", "bert")]
            _until_waiting([one.process for one in both])
        assert [one.answer() for one in both] == ["stored"] * 2
        answers = [json.loads(one.ask("")) for one in both]
    assert answers == [["token of anna", "token of bert"]] * 2


def _until_waiting(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        descriptors = Path(f"/proc/{process.pid}/task")
        deadline = time.monotonic() + 20
        while len(list(descriptors.iterdir())) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
    time.sleep(0.05)


def test_searching_for_a_key_makes_none(tmp_path: Path) -> None:
    """Given keys come first, then the file beside the database; no key is created."""
    database = tmp_path / "tokens.db"
    assert find_keyring(Settings(database), database) is None
    assert names(tmp_path) == set()
    key_path(database).write_text(OTHER_KEY)
    beside = find_keyring(Settings(database), database)
    given = find_keyring(Settings(database, (KEY,)), database)
    assert beside is not None
    assert given is not None
    assert beside.can_decrypt(sealed(OTHER_KEY)[0])
    assert given.can_decrypt(sealed(KEY)[0])


@pytest.mark.parametrize("opening", ["first", "middle", "last"])
async def test_a_key_that_opens_few_of_the_secrets_is_not_accepted_in_silence(
    opening: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The start names how many secrets no given key opens, and where to see which."""
    path, number = tmp_path / "tokens.db", {"first": 0, "middle": 20, "last": 40}[opening]
    async with RefreshTokenStorage(path, encryption_key=THIRD) as storage:
        for user in range(41):
            await storage.store_refresh_token(f"user-{user:02}", "token")
    promote(path, KEY)
    async with RefreshTokenStorage(path, encryption_key=[KEY, THIRD]) as storage:
        await storage.store_refresh_token(f"user-{number:02}", "token")
    caplog.clear()
    await start(path, keys=(KEY,))
    [told] = [r.getMessage() for r in caplog.records if "No given key opens" in r.getMessage()]
    assert "opens 40 of the 41 secrets that a start tries" in told
    assert f"db doctor -d {path}" in told
    [missing] = [r.getMessage() for r in caplog.records if "was not given" in r.getMessage()]
    assert Keyring([THIRD]).fingerprints[0] in missing
    # No key can be retired while a secret needs it.
    assert missing.endswith(f"To see what needs it: nextcloud-mcp-server keys list -d {path}")
    caplog.clear()
    await start(path, keys=(KEY, THIRD))
    assert "No given key opens" not in caplog.text
    assert "was not given" not in caplog.text


@pytest.mark.parametrize("column", ["newest token", "password", "client", "flow"])
async def test_a_secret_of_any_column_that_no_key_opens_is_counted(
    column: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A start examines each column of secrets, and the newest row, not only the first rows."""
    path = tmp_path / "tokens.db"
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        for user in range(40):
            await storage.store_refresh_token(f"user-{user:02}", "token")
    promote(path, THIRD)
    async with RefreshTokenStorage(path, encryption_key=[THIRD, KEY]) as storage:
        if column == "newest token":
            await storage.store_refresh_token("user-99", "token")
        elif column == "password":
            await storage.app_passwords.store("alice", "password")
        elif column == "client":
            await storage.oauth_clients.store("client", "secret", redirect_uris=[])
        else:
            await storage.login_flows.store("alice", "token", "endpoint", expires_at=2**31)
    promote(path, KEY)
    caplog.clear()
    await start(path, keys=(KEY,))
    assert "opens 1 of the 41 secrets that a start tries" in caplog.text


@pytest.mark.parametrize("source", ["variable", "named file", "beside"])
def test_a_malformed_key_is_found_by_its_place(source: str, tmp_path: Path) -> None:
    """The variable, or the file and its line: a comment in a key file is taken for a key."""
    database, file = tmp_path / "tokens.db", tmp_path / "some.key"
    settings = Settings(database)
    if source == "variable":
        settings, place = settings._replace(keys=(KEY, "# mine")), "TOKEN_ENCRYPTION_KEY"
    else:
        if source == "beside":
            file = key_path(database)
        else:
            settings = settings._replace(key_file=file)
        file.touch(0o600)
        file.write_text(f"\n{KEY}\n# mine, from {THIRD}\n", "utf-8")
        place = f"line 3 of {file}"
    with refuses("malformed-key") as caught:
        find_keyring(settings, database)
    assert str(caught.value).startswith(f"Encryption key 2 of 2 ({place}) is not 44 characters")
    assert KEY not in f"{caught.value} {caught.value.remedy}"
    assert THIRD not in f"{caught.value} {caught.value.remedy}"
    rule = "A key file has one key in each line, and nothing else. "
    assert caught.value.remedy.startswith(rule) == (source != "variable")
