"""Files that another user owns or can change: what a start refuses, repairs and uses."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto import keyfile
from nextcloud_mcp_server.crypto.keyfile import given_keyring, key_path
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from nextcloud_mcp_server.maintenance.repair import repair
from nextcloud_mcp_server.migrations import (
    downgrade_database,
    get_current_revision,
    stamp_database,
    upgrade_database,
)
from nextcloud_mcp_server.settings import Settings, trusted_owners
from tests.support.by_path import prepare
from tests.support.contents import KEY
from tests.support.errors import refused, refuses
from tests.support.files import names
from tests.support.revisions import HEAD
from tests.support.unprivileged import NOBODY, as_nobody

#: Any user but root and nobody.
OTHER = 12345

SUFFIXES = ("", "-wal", "-shm", "-journal", ".lock", ".inuse", ".key")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

_START = """
async def start(path):
    try:
        async with RefreshTokenStorage(path):
            print("started")
    except TokenStorageError as error:
        print(error.code, error.message, error.remedy)

os.environ.pop("TOKEN_ENCRYPTION_KEY", None)
asyncio.run(start(Path(sys.argv[1])))
"""


@pytest.fixture(params=[0o1777, 0o777], ids=["sticky", "open"])
def shared(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that every user can write."""
    import tempfile  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="tokens-") as name:
        folder = Path(name)
        folder.chmod(request.param)
        yield folder


def _facts(folder: Path) -> dict[str, tuple[int, int, int]]:
    return {
        path.name: ((s := path.lstat()).st_mode, s.st_size, s.st_mtime_ns)
        for path in folder.iterdir()
    }


def _plant(path: Path, owner: int, content: bytes = b"", mode: int = 0o666) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    os.chown(path, owner, owner)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_of_another_user_is_refused_by_name(kind: str, suffix: str, shared: Path) -> None:
    """Whatever another user put there before the first start is not used, and not changed."""
    path = shared / f"tokens.db{suffix}"
    target = shared / "elsewhere" if kind == "link" else path
    _plant(target, OTHER, f"{KEY}\n".encode() if suffix == ".key" else b"")
    if kind == "link":
        path.symlink_to(target)
        os.chown(path, OTHER, OTHER, follow_symlinks=False)
    before = _facts(shared)
    printed = as_nobody(_START, shared / "tokens.db")
    named = target if kind == "link" and not suffix else path
    assert printed.startswith(f"untrusted {named} belongs to user {OTHER}, and this is user nobody")
    assert f"TOKEN_STORAGE_TRUSTED_OWNERS={OTHER}" in printed
    assert _facts(shared) == before


def test_every_link_on_the_way_is_checked(shared: Path) -> None:
    """Our link leads through the link of another user, which he can turn round at any time."""
    key, target, between = shared / "tokens.db.key", shared / "target", shared / "between"
    _plant(target, NOBODY, f"{KEY}\n".encode(), mode=0o600)
    between.symlink_to(target)
    os.chown(between, OTHER, OTHER, follow_symlinks=False)
    key.symlink_to(between)
    os.chown(key, NOBODY, NOBODY, follow_symlinks=False)
    assert as_nobody(_START, shared / "tokens.db").startswith(
        f"untrusted {key} belongs to user {OTHER}"
    )


def test_a_folder_that_others_can_write_is_used(shared: Path) -> None:
    """A database in /tmp, or in a volume of mode 0777, is created, private, and used again."""
    for _ in range(2):
        assert as_nobody(_START, shared / "tokens.db") == "started"
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in shared.iterdir()}
    assert {"tokens.db", "tokens.db.key", "tokens.db.lock", "tokens.db.inuse"} <= found.keys()
    assert set(found.values()) == {0o600}
    findings = diagnose(Settings(shared / "tokens.db")).findings
    assert any(str(shared) in f.message for f in findings if f.check == "permissions")


def test_a_trusted_owner_is_named_in_a_setting(shared: Path) -> None:
    """An owner in the list is trusted, by name or by number, with the modes of the files."""
    _plant(shared / "tokens.db", OTHER)
    setting = "os.environ['TOKEN_STORAGE_TRUSTED_OWNERS'] = {!r}\n"
    assert as_nobody(setting.format(f"root, {OTHER}") + _START, shared / "tokens.db") == "started"
    printed = as_nobody(setting.format("root") + _START, shared / "tokens.db")
    assert printed.startswith("untrusted")


@pytest.mark.parametrize("given", ["nobody-of-this-name", "-1", "1 000"])
def test_a_user_that_does_not_exist_is_not_trusted(given: str) -> None:
    """A misspelt name is an error."""
    refused(lambda: trusted_owners({"TOKEN_STORAGE_TRUSTED_OWNERS": given}), "bad-input")
    assert trusted_owners({"TOKEN_STORAGE_TRUSTED_OWNERS": " root ,7,"}) == (0, 7)


def test_a_file_of_root_is_used_unless_all_can_write_it(shared: Path) -> None:
    """Root is trusted; what root left open to every user is not."""
    path = _plant(shared / "tokens.db", 0, mode=0o666)
    assert as_nobody(_START, path).startswith(f"untrusted {path} can be written by every user")
    path.chmod(0o660)
    os.chown(path, 0, NOBODY)
    assert as_nobody(_START, path) == "started"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_root_uses_the_files_of_the_owner_of_the_database(shared: Path) -> None:
    """Root maintains a user's database with its files, and refuses those of a third user."""
    path = shared / "tokens.db"
    assert as_nobody(_START, path) == "started"
    assert prepare(path).after == HEAD
    _plant(shared / "tokens.db-journal", OTHER)
    with refuses("untrusted", f"belongs to user {OTHER}"):
        prepare(path)


@pytest.mark.parametrize("change", [upgrade_database, downgrade_database, stamp_database])
def test_every_change_refuses_a_planted_file(
    change: Callable[[Path], object], shared: Path
) -> None:
    """Commands that change a database check the files too; an inspection is allowed."""
    path = shared / "tokens.db"
    upgrade_database(path)
    _plant(shared / "tokens.db-journal", OTHER)
    before = _facts(shared)
    with refuses("untrusted"):
        change(path)
    assert get_current_revision(path) == HEAD
    assert _facts(shared).keys() - before.keys() <= {"tokens.db-wal", "tokens.db-shm"}


@pytest.mark.parametrize("revision", ["007", HEAD])
@pytest.mark.parametrize("mode", [0o644, 0o666, 0o664])
def test_an_own_file_that_others_can_use_is_made_private(
    mode: int, revision: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What an old release left readable is 0600 after a start, with what lies beside it."""
    path = tmp_path / "tokens.db"
    upgrade_database(path, revision)
    for suffix in ("", ".lock"):
        path.with_name(f"tokens.db{suffix}").chmod(mode)
    with caplog.at_level(logging.WARNING):
        upgrade_database(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "tokens.db.lock").stat().st_mode) == 0o600
    assert re.search(
        rf"Every user of this machine could (read|read and change) {path} \(mode {mode:04o}\)",
        caplog.text,
    )
    caplog.clear()
    upgrade_database(path)
    assert "Every user of this machine" not in caplog.text


def test_a_read_only_file_stays_read_only(tmp_path: Path) -> None:
    """A database that its owner has closed for writing is not opened again."""
    path = tmp_path / "tokens.db"
    upgrade_database(path)
    path.chmod(0o444)
    upgrade_database(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400


@pytest.mark.parametrize(("mode", "trusted"), [(0o640, ""), (0o660, str(os.geteuid()))])
def test_a_file_that_is_shared_with_a_group_stays_shared(
    mode: int, trusted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group may read; it may change a file only if the setting trusts this user's own files."""
    monkeypatch.setenv("TOKEN_STORAGE_TRUSTED_OWNERS", trusted)
    path = tmp_path / "tokens.db"
    upgrade_database(path)
    path.chmod(mode)
    upgrade_database(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("suffix", ["", ".lock", ".inuse"])
async def test_a_group_that_can_change_a_file_can_so_no_longer(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each user of the group could replace everybody's tokens; it may still read."""
    path = tmp_path / "tokens.db"
    async with RefreshTokenStorage(path, settings=Settings(path)):
        pass
    file = tmp_path / f"tokens.db{suffix}"
    file.chmod(0o660)
    if suffix not in files.LOCKS:
        found = [f for f in diagnose(Settings(path)).findings if f.check == "permissions"]
        assert (found[0].message, found[0].fixable) == (
            f"a group can read and change {file.name}",
            True,
        )
    caplog.clear()
    async with RefreshTokenStorage(path, settings=Settings(path)):
        pass
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    told = f"A group could read and change {file} (mode 0660): its mode is 0640 now"
    assert told in caplog.text
    file.chmod(0o660)
    if suffix not in files.LOCKS:
        repair(Settings(path))
        assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_key_of_root_that_a_group_can_change_is_refused(shared: Path) -> None:
    """It cannot be made private here, so the remedy is a command for root."""
    key = _plant(shared / "tokens.db.key", 0, f"{KEY}\n".encode(), 0o660)
    os.chown(key, 0, NOBODY)
    printed = as_nobody(_START, shared / "tokens.db")
    assert printed.startswith(f"untrusted {key} can be written by the users of group")
    assert f"As root: chmod go-w {key}" in printed
    assert names(shared) == {key.name}
    key.chmod(0o640)
    assert as_nobody(_START, shared / "tokens.db") == "started"


def test_a_refused_file_keeps_its_mode(tmp_path: Path) -> None:
    """The file of another program is not made private."""
    path = _plant(tmp_path / "tokens.db", 0, b"no database" * 99, 0o644)
    with refuses("not-a-database"):
        upgrade_database(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


async def test_a_key_beside_the_database_must_be_private(tmp_path: Path) -> None:
    """A key file that others can read is refused there, and named with the remedy."""
    path = tmp_path / "tokens.db"
    async with RefreshTokenStorage(path, settings=Settings(path)):
        pass
    key = tmp_path / "tokens.db.key"
    key.chmod(0o644)
    before = names(tmp_path)
    with refuses("untrusted") as caught:
        await RefreshTokenStorage(path, settings=Settings(path)).initialize()
    assert str(key) in caught.value.message
    assert f"chmod 600 {key}" in caught.value.remedy
    assert names(tmp_path) == before
    # It is not used if another key is given.
    async with RefreshTokenStorage(path, encryption_key=key.read_text().strip()):
        pass


def _named(folder: Path, where: str) -> tuple[Path, Settings]:
    """Return a key file, and the settings of a new database that uses it."""
    (folder / "secrets").mkdir()
    path = folder / "tokens.db"
    key = {
        "default": path.with_name("tokens.db.key"),
        "beside": folder / "my.key",
        "elsewhere": folder / "secrets" / "key",
    }[where]
    return key, Settings(path, key_file=None if where == "default" else key)


WHERE = pytest.mark.parametrize("where", ["default", "beside", "elsewhere"])


@WHERE
@pytest.mark.parametrize("mode", [0o602, 0o620, 0o460, 0o666, 0o664])
async def test_a_key_that_others_can_change_is_refused(
    mode: int, where: str, tmp_path: Path
) -> None:
    """A user who can write the file could have put another key there; nothing is changed."""
    key, settings = _named(tmp_path, where)
    _plant(key, os.geteuid(), KEY.encode(), mode)
    before = _facts(tmp_path) | _facts(key.parent)
    with refuses("untrusted", f"mode {mode:04o}") as caught:
        await RefreshTokenStorage(None, settings=settings).initialize()
    assert f"chmod 600 {key}" in caught.value.remedy
    assert _facts(tmp_path) | _facts(key.parent) == before
    key.chmod(0o600)
    async with RefreshTokenStorage(None, settings=settings):
        pass


@WHERE
def test_a_key_of_another_user_is_refused(where: str, shared: Path) -> None:
    """Its owner is this user, root or a trusted one, wherever the key is."""
    key, _ = _named(shared, where)
    (shared / "secrets").chmod(0o755)
    _plant(key, OTHER, KEY.encode(), 0o444)
    named = f"os.environ['TOKEN_ENCRYPTION_KEY_FILE'] = {str(key)!r}\n"
    code = ("" if where == "default" else named) + _START.replace(
        "RefreshTokenStorage(path)", "RefreshTokenStorage(str(path))"
    )
    printed = as_nobody(code, shared / "tokens.db")
    assert printed.startswith(f"untrusted {key} belongs to user {OTHER}")
    assert names(shared) <= {"secrets", key.name}
    trusted = f"os.environ['TOKEN_STORAGE_TRUSTED_OWNERS'] = '{OTHER}'\n"
    assert as_nobody(trusted + code, shared / "tokens.db") == "started"


async def test_root_trusts_no_other_owner_of_a_key_for_a_server(tmp_path: Path) -> None:
    """There is no database file whose owner would be trusted, too."""
    key = _plant(tmp_path / "key", OTHER, KEY.encode(), 0o400)
    database = ServerUrl("postgresql://localhost/tokens")
    with refuses("untrusted", f"belongs to user {OTHER}"):
        given_keyring(None, Settings(database, key_file=key))


@pytest.mark.parametrize("mode", [0o444, 0o604])
async def test_a_key_of_any_name_beside_the_database_must_be_private(
    mode: int, tmp_path: Path
) -> None:
    """A copy of the folder has both; the remedy is the command to type."""
    key, settings = _named(tmp_path, "beside")
    _plant(key, os.geteuid(), KEY.encode(), mode)
    with refuses("untrusted", "can be read by every user") as caught:
        await RefreshTokenStorage(None, settings=settings).initialize()
    assert caught.value.remedy.startswith(f"chmod 600 {key} - or")
    assert names(tmp_path) == {"secrets", key.name}
    key.chmod(0o440)
    async with RefreshTokenStorage(None, settings=settings):
        pass


@pytest.mark.parametrize("link", [True, False])
async def test_a_key_elsewhere_may_be_readable(
    link: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The secret of a container is 0444, and in Kubernetes a link to a link."""
    key, settings = _named(tmp_path, "elsewhere")
    if link:
        (key.parent / "..2026").mkdir()
        (key.parent / "..data").symlink_to("..2026")
        key.symlink_to("..data/key")
    _plant(key, 0, KEY.encode(), 0o444)
    async with RefreshTokenStorage(None, settings=settings):
        pass
    assert f"Every user can read the key file {key} (mode 0444)" in caplog.text


async def test_a_link_beside_the_database_leads_to_a_key_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the key itself is decides, not where a link to it is."""
    key, settings = _named(tmp_path, "elsewhere")
    _plant(key, 0, KEY.encode(), 0o444)
    key_path(settings.file).symlink_to(key)
    async with RefreshTokenStorage(None, settings=Settings(settings.file)):
        pass
    assert "Every user can read the key file" in caplog.text


@pytest.mark.parametrize("swapped", ["file", "link"])
async def test_what_was_opened_is_checked(
    swapped: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that takes the place of the key between the check and the opening is not used."""
    key, settings = _named(tmp_path, "default")
    _plant(key, os.geteuid(), KEY.encode(), 0o600)
    planted = _plant(tmp_path / "planted", OTHER, KEY.encode(), 0o600)
    real = files.read_small

    def swap(path: Path, *arguments: Any, **options: Any) -> bytes:
        if swapped == "file":
            planted.replace(path)
        else:
            path.unlink()
            path.symlink_to(planted)
        return real(path, *arguments, **options)

    monkeypatch.setattr(keyfile, "read_small", swap)
    with refuses("untrusted" if swapped == "file" else "key-missing"):
        await RefreshTokenStorage(None, settings=settings).initialize()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o700])
def test_new_folders_are_private_under_any_umask(umask: int, tmp_path: Path) -> None:
    """Each folder that is made above a database is 0700, not the last one alone."""
    before = os.umask(umask)
    try:
        files.make_folder(tmp_path / "a" / "b" / "c" / "tokens.db")
    finally:
        os.umask(before)
    made = (tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c")
    wanted = 0o700 & ~umask
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in made] == [wanted] * 3


def test_a_look_is_allowed_and_changes_nothing(shared: Path) -> None:
    """`db current` shows the database of another user and changes nothing."""
    path = shared / "tokens.db"
    upgrade_database(path)
    path.chmod(0o644)
    os.chown(path, OTHER, OTHER)
    code = """
from nextcloud_mcp_server.migrations import get_current_revision
print(get_current_revision(Path(sys.argv[1])))
"""
    assert as_nobody(code, path) == HEAD
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
