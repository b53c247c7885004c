"""A restore is verified first, keeps what it replaces, and is seen by whoever has it open."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from nextcloud_mcp_server import journal
from nextcloud_mcp_server import restore as restoring
from nextcloud_mcp_server.archive import backups_of
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite import backup as backups
from nextcloud_mcp_server.backends.sqlite import exchange
from nextcloud_mcp_server.backends.sqlite.inuse import holders
from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path
from nextcloud_mcp_server.crypto import Keyring
from nextcloud_mcp_server.history import load_history
from nextcloud_mcp_server.migrations import upgrade_database
from nextcloud_mcp_server.restore import Restored, restore, weigh
from nextcloud_mcp_server.upkeep import back_up
from nextcloud_mcp_server.vetting import vet
from tests.cli.places import REFUSED, Shelf, crash
from tests.support import promises
from tests.support.contents import KEY, OTHER_KEY, REFRESH_TOKENS
from tests.support.errors import refused
from tests.support.folders import names
from tests.support.shapes import at
from tests.support.snapshot import Snapshot, snapshot

ROOT = Path(__file__).parents[1]
HEAD = load_history().head


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where this test's database lies; nothing else is in its folder."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "tokens.db"


@pytest.fixture
def saved(path: Path, tmp_path: Path) -> Path:
    """A backup of a database at head with rows, in another folder; the database is at `path`."""
    at("010", "portable").write(path)
    upgrade_database(path)
    for made in backups.automatic_backups(path):
        backups.discard(made)
    return back_up(path, tmp_path / "saved.db")


def run(path: Path, statement: str) -> None:
    """Execute one statement as another program would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)


def same(one: Snapshot, other: Snapshot) -> None:
    """Two files hold the same, but for what the journal says of a restore."""
    rows = [{n: r for n, r in s.rows.items() if n != "migration_journal"} for s in (one, other)]
    assert rows[0] == rows[1]
    assert one.indexes == other.indexes


def restored(path: Path, saved: Path, *, while_running: bool = False) -> Restored:
    """Weigh and restore."""
    return restore(weigh(path, saved), while_running=while_running, lock_timeout=10)


def test_a_restore_brings_back_what_was_saved_and_keeps_what_it_replaces(
    path: Path, saved: Path
) -> None:
    """Rows, revision and mode are as they were; what was there is a verified backup of its own."""
    run(path, "DELETE FROM refresh_tokens")
    path.chmod(0o640)
    before = snapshot(path)
    done = restored(path, saved)
    same(snapshot(path), snapshot(saved))
    assert len(snapshot(path).rows["refresh_tokens"]) == len(REFRESH_TOKENS)
    assert path.stat().st_mode & 0o777 == 0o640
    assert done.kept is not None
    assert done.kept.name.endswith(f"-{HEAD}-replaced")
    same(snapshot(done.kept), before)
    [kept] = backups_of(path, verify=True)
    assert (kept.path, kept.kind, kept.status, kept.grants) == (done.kept, "replaced", "ok", 0)
    assert backups.automatic_backups(path) == []
    assert promises.companions(path) == set()
    assert not {name for name in names(path.parent) if name.endswith(".partial")}


def test_the_backup_stays_as_it_is(path: Path, saved: Path) -> None:
    """Verifying and restoring change nothing of it: bytes, mode, time, and what lies beside."""
    before, beside = promises.disk(saved), names(saved.parent)
    restored(path, saved)
    assert (promises.disk(saved), names(saved.parent)) == (before, beside)


def test_a_copy_in_wal_mode_stays_as_it_is(path: Path, saved: Path, tmp_path: Path) -> None:
    """A `cp` of a stopped database is restored as well, and nothing appears beside it."""
    copy = tmp_path / "copied" / "tokens.db.backup"
    copy.parent.mkdir()
    shutil.copy(path, copy)
    offer = weigh(path, copy)
    assert offer.backup.manifest is None
    restore(offer, lock_timeout=10)
    same(snapshot(path), snapshot(saved))
    assert names(copy.parent) == {"tokens.db.backup"}


def test_a_restore_is_in_the_journal(path: Path, saved: Path) -> None:
    """The database tells that it was restored, from what, and where the replaced one lies."""
    done = restored(path, saved)
    entries = journal.read(path, 1)
    assert entries
    [entry] = entries
    assert (entry.action, entry.before, entry.after) == ("restore", HEAD, HEAD)
    assert (entry.backup, entry.note) == (done.kept and done.kept.name, "from saved.db")
    restored(path, done.kept or path)
    assert snapshot(path).rows["refresh_tokens"]


def test_an_older_backup_is_restored_as_it_is(path: Path, saved: Path, tmp_path: Path) -> None:
    """Nothing is migrated: the next start does that, and the offer says so."""
    old = tmp_path / "old.db"
    at("006").write(old)
    offer = weigh(path, old)
    assert (offer.is_behind, weigh(path, saved).is_behind) == (True, False)
    restore(offer, lock_timeout=10)
    assert snapshot(path).versions == ["006"]
    assert upgrade_database(path).after == HEAD
    promises.complete_at_head(snapshot(path))


def _missing(path: Path) -> None:
    path.unlink()


def _missing_with_leftovers(path: Path) -> None:
    path.unlink()
    for suffix in ("-wal", "-journal", "-shm"):
        path.with_name(path.name + suffix).write_bytes(b"stale" * 1000)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(40_000))


def _text(path: Path) -> None:
    path.write_bytes(b"not a database\n" * 500)


def _zero_page(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(bytes(4096) + raw[4096:])


def _bad_schema(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[100:400] = b"\xff" * 300
    path.write_bytes(raw)


def _bad_page(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    for page in range(2, len(raw) // 4096):
        raw[page * 4096 : page * 4096 + 60] = b"\xa5" * 60
    path.write_bytes(raw)


def _cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5000)


def _stale_companions(path: Path) -> None:
    _garbage(path)
    for suffix in ("-wal", "-journal"):
        path.with_name(path.name + suffix).write_bytes(b"stale" * 1000)


DAMAGE = (
    _garbage, _text, _zero_page, _bad_schema, _bad_page, _cut_off, _stale_companions
)  # fmt: skip


@pytest.mark.parametrize("harm", DAMAGE)
def test_what_is_damaged_is_replaced_and_kept_as_it_is(
    harm: Callable[[Path], None], path: Path, saved: Path
) -> None:
    """Whatever has become of the file, the backup takes its place, and every byte is kept."""
    harm(path)
    raw = path.read_bytes()
    done = restored(path, saved)
    same(snapshot(path), snapshot(saved))
    assert done.kept is not None
    assert done.kept.name.startswith("tokens.db.damaged-")
    assert done.kept.read_bytes() == raw
    assert done.kept.stat().st_mode & 0o777 == 0o600
    assert promises.companions(path) == set()
    assert upgrade_database(path).after == HEAD


@pytest.mark.parametrize("harm", [_missing, _missing_with_leftovers, _empty])
def test_what_is_gone_is_made_again(harm: Callable[[Path], None], path: Path, saved: Path) -> None:
    """Without a database, or with an empty one, there is nothing to keep; leftovers do no harm."""
    harm(path)
    done = restored(path, saved)
    assert done.kept is None
    same(snapshot(path), snapshot(saved))
    assert upgrade_database(path).journal_mode == "wal"
    if harm is not _empty:
        assert promises.companions(path) <= {"-wal", "-shm"}
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("state", ["newer", "two-rows", "no-grants"])
def test_what_no_start_may_touch_is_replaced_and_kept(
    state: str, path: Path, saved: Path, tmp_path: Path
) -> None:
    """The way back from a newer release's database, or a contradictory one, is a restore."""
    path.unlink()
    Shelf(tmp_path).put(state, path)
    before = snapshot(path)
    done = restored(path, saved)
    same(snapshot(path), snapshot(saved))
    assert done.kept is not None
    same(snapshot(done.kept), before)


def test_a_folder_that_is_not_there_is_made(saved: Path, tmp_path: Path) -> None:
    """A restore on a new machine needs no start before."""
    path = tmp_path / "new" / "place" / "tokens.db"
    restored(path, saved)
    same(snapshot(path), snapshot(saved))
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_link_is_followed(path: Path, saved: Path, tmp_path: Path) -> None:
    """The file behind the link is restored, and the link stays one."""
    link = tmp_path / "link.db"
    link.symlink_to(path)
    run(path, "DELETE FROM refresh_tokens")
    done = restored(link, saved)
    assert link.is_symlink()
    assert done.kept is not None
    assert done.kept.parent == path.parent
    same(snapshot(path), snapshot(saved))


@pytest.mark.parametrize(("size", "mode"), [(1024, "WAL"), (16384, "WAL"), (1024, "DELETE")])
def test_pages_may_have_another_size(
    size: int, mode: str, path: Path, saved: Path, tmp_path: Path
) -> None:
    """In WAL mode SQLite copies no pages of another size: they are made to fit first."""
    path.unlink()
    at("006").write(path, [f"page_size={size}", f"journal_mode={mode}"])
    with closing(sqlite3.connect(path)) as open_elsewhere:
        open_elsewhere.execute("SELECT count(*) FROM refresh_tokens").fetchall()
        restored(path, saved)
        rows = open_elsewhere.execute("SELECT count(*) FROM migration_journal").fetchall()
    assert rows[0][0] >= 2
    same(snapshot(path), snapshot(saved))


def _flip(saved: Path) -> None:
    raw = bytearray(saved.read_bytes())
    raw[-1] ^= 1
    saved.write_bytes(raw)


def _add_row(saved: Path) -> None:
    run(saved, "INSERT INTO schema_version VALUES (9, 1)")


def _no_table(saved: Path) -> None:
    _without_manifest(saved)
    os.truncate(saved, 0)


def _without_manifest(saved: Path) -> None:
    manifest_path(saved).unlink()


def _pipe(saved: Path) -> None:
    saved.unlink()
    os.mkfifo(saved)


def _bad_manifest(saved: Path) -> None:
    manifest_path(saved).write_text("{}")


def _cut(saved: Path) -> None:
    _without_manifest(saved)
    os.truncate(saved, saved.stat().st_size - 5000)


def _bad_pages(saved: Path) -> None:
    _without_manifest(saved)
    _bad_page(saved)


@pytest.mark.parametrize(
    "harm",
    [_flip, _add_row, _no_table, _pipe, _bad_manifest, _cut, _bad_pages, Path.unlink],
)
def test_what_is_no_good_backup_is_refused(
    harm: Callable[[Path], None], path: Path, saved: Path
) -> None:
    """Damaged, changed, cut off or gone: one error, and nothing of the database changes."""
    harm(saved)
    before = promises.disk(path)
    error = refused(lambda: weigh(path, saved))
    assert error.code == "bad-backup"
    assert str(saved) in error.message
    promises.untouched(before, promises.disk(path))


@pytest.mark.parametrize("state", REFUSED)
def test_what_a_start_would_refuse_is_not_restored(
    state: str, path: Path, saved: Path, tmp_path: Path
) -> None:
    """A backup of another application, a newer program, or a damaged one is no backup."""
    bad = Shelf(tmp_path).put(state, saved.with_name("bad.db"))
    before = promises.disk(bad)
    assert refused(lambda: weigh(path, bad)).code == "bad-backup"
    assert promises.disk(bad) == before


def test_another_application_is_not_replaced(path: Path, saved: Path) -> None:
    """With -d on the wrong file, its owner would miss it."""
    path.unlink()
    run(path, "CREATE TABLE songs (title TEXT)")
    before = path.read_bytes()
    assert refused(lambda: weigh(path, saved)).code == "foreign"
    assert path.read_bytes() == before


def test_a_database_is_not_restored_onto_itself(path: Path, saved: Path, tmp_path: Path) -> None:
    """Neither by another name of it, nor over a backup."""
    link = tmp_path / "link.db"
    link.symlink_to(path)
    made = back_up(path)
    for database, backup in ((path, path), (path, link), (link, path), (made, saved)):
        assert refused(lambda d=database, b=backup: weigh(d, b)).code == "bad-input"  # type: ignore[misc]


def test_secrets_are_tried_with_the_keys_at_hand(path: Path, saved: Path) -> None:
    """Opened by none is refused; where some stay closed, the offer says how many."""
    assert weigh(path, saved).backup.opened is None
    whole = weigh(path, saved, Keyring([KEY])).backup
    assert whole.opened == whole.secrets > len(REFRESH_TOKENS)
    assert refused(lambda: weigh(path, saved, Keyring([OTHER_KEY]))).code == "wrong-key"
    _without_manifest(saved)
    run(saved, "UPDATE refresh_tokens SET encrypted_token = 'gAAAA' WHERE user_id = 'alice'")
    some = weigh(path, saved, Keyring([KEY])).backup
    assert some.opened == some.secrets - 1


def test_a_backup_that_changes_after_it_was_agreed_to_is_refused(path: Path, saved: Path) -> None:
    """What is restored is what was verified and shown."""
    offer = weigh(path, saved)
    before = snapshot(path)
    _flip(saved)
    assert refused(lambda: restore(offer, lock_timeout=10)).code == "bad-backup"
    same(snapshot(path), before)


def test_space_is_checked_first(path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where copy, kept copy and WAL would not fit, nothing is written."""
    before = names(path.parent)
    offer = weigh(path, saved)
    with monkeypatch.context() as patch:
        patch.setattr("nextcloud_mcp_server.backends.sqlite.space.free_bytes", lambda _: 300_000)
        assert refused(lambda: restore(offer, lock_timeout=10)).code == "disk-full"
    assert names(path.parent) == before


def test_a_program_that_does_not_let_go_is_an_error(
    path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that stays open ends the wait, and the database is as it was."""
    before = snapshot(path)
    offer = weigh(path, saved)
    with monkeypatch.context() as patch:
        patch.setattr(exchange, "_DEADLINE", 0.2)
        patch.setattr(exchange, "BUSY_TIMEOUT", 0.1)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert refused(lambda: restore(offer, lock_timeout=10)).code == "lock-timeout"
            other.execute("ROLLBACK")
    same(snapshot(path), before)


def test_a_result_that_does_not_read_back_is_told(
    path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exchange that copies nothing is noticed."""
    run(path, "DELETE FROM refresh_tokens")
    offer = weigh(path, saved)
    with monkeypatch.context() as patch:
        patch.setattr(restoring.exchange, "copy_into", lambda *_: None)  # type: ignore[attr-defined]
        error = refused(lambda: restore(offer, lock_timeout=10))
    assert (error.code, "-replaced" in error.message) == ("io-error", True)


SERVER = """
import asyncio, sys
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage

async def main():
    async with RefreshTokenStorage(sys.argv[1], encryption_key=sys.argv[2]) as storage:
        print("open", flush=True)
        while line := (await asyncio.to_thread(sys.stdin.readline)).split():
            if line[0] == "list":
                print(" ".join(await storage.list_user_ids()), flush=True)
            else:
                await storage.store_refresh_token(line[1], "token")
                print("stored", flush=True)

asyncio.run(main())
"""


class Server(NamedTuple):
    """A store that is open in another process."""

    process: subprocess.Popen[str]

    def ask(self, line: str) -> str:
        """Send one order, and read its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextmanager
def server(path: Path) -> Iterator[Server]:
    """Another process with the store open, closed cleanly at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(path), KEY],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield Server(process)


@pytest.fixture
def two(path: Path, tmp_path: Path) -> Path:
    """A backup with the users `anna` and `bert`; the database has `anna` and `carl`."""
    with server(path) as running:
        running.ask("store anna")
        running.ask("store bert")
    saved = back_up(path, tmp_path / "saved.db")
    run(path, "DELETE FROM refresh_tokens WHERE user_id = 'bert'")
    with server(path) as running:
        running.ask("store carl")
    return saved


def test_a_running_server_is_named_and_nothing_changes(path: Path, two: Path) -> None:
    """Without --while-running, a restore under a server is refused."""
    with server(path) as running:
        offer = weigh(path, two)
        error = refused(lambda: restore(offer, lock_timeout=10))
        assert error.code == "in-use"
        if holders(path):
            assert str(running.process.pid) in error.message
        assert running.ask("list") == "anna carl"


def test_a_running_server_sees_what_was_restored_and_its_writes_are_kept(
    path: Path, two: Path
) -> None:
    """It reads the restored rows at once; what it acknowledges afterwards is there when it ends."""
    with server(path) as running:
        assert running.ask("list") == "anna carl"
        restored(path, two, while_running=True)
        assert running.ask("list") == "anna bert"
        assert running.ask("store dora") == "stored"
        assert running.ask("list") == "anna bert dora"
    with server(path) as again:
        assert again.ask("list") == "anna bert dora"


def test_acknowledged_writes_during_a_restore_are_old_or_kept(path: Path, two: Path) -> None:
    """A server that writes all the time loses no write that it acknowledged after the restore."""
    with server(path) as running:
        offer = weigh(path, two)
        after: list[str] = []
        over = threading.Event()
        failed: list[BaseException] = []

        def work() -> None:
            try:
                restore(offer, while_running=True, lock_timeout=10)
            except BaseException as error:  # noqa: BLE001 - told below
                failed.append(error)
            over.set()

        thread = threading.Thread(target=work)
        thread.start()
        number = 0
        while len(after) < 20:
            number += 1
            begun_after = over.is_set()
            assert running.ask(f"store user{number}") == "stored"
            if begun_after:
                after.append(f"user{number}")
        thread.join()
        assert failed == []
    with server(path) as again:
        there = again.ask("list").split()
    assert {"anna", "bert", *after} <= set(there)
    assert "carl" not in there


def test_a_restore_by_renaming_loses_acknowledged_writes(path: Path, two: Path) -> None:
    """Negative control: a rename under an open store is not seen, and its writes are lost."""
    with server(path) as running:
        assert running.ask("list") == "anna carl"
        # A connection is opened when it is first needed.
        assert running.ask("store carl") == "stored"
        copy = path.with_name("copy")
        shutil.copy(two, copy)
        copy.replace(path)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink()
        assert running.ask("list") == "anna carl"
        assert running.ask("store dora") == "stored"
    with server(path) as again:
        assert again.ask("list") == "anna bert"


def test_a_damaged_database_is_not_replaced_under_a_server(path: Path, two: Path) -> None:
    """It may have to be renamed, so --while-running does not help: nobody may have it open."""
    with server(path):
        _garbage(path)
        raw = path.read_bytes()
        offer = weigh(path, two)
        error = refused(lambda: restore(offer, while_running=True, lock_timeout=10))
        assert error.code == "in-use"
        assert path.read_bytes()[:100] == raw[:100]


async def test_the_store_opens_what_was_restored(path: Path, saved: Path) -> None:
    """Every secret of the backup is read through the store."""
    _garbage(path)
    wanted = promises.sealed_in(snapshot(saved), KEY)
    restored(path, saved)
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        assert await promises.read_through_the_store(storage, wanted) == wanted


def test_a_list_of_backups_says_which_are_good(path: Path, saved: Path) -> None:
    """By manifest and size at once; page by page, row by row and byte by byte on demand."""
    assert saved.exists()
    names_of = {}
    for number, harm in enumerate((None, _without_manifest, _flip, _cut, _bad_pages)):
        made = back_up(path)
        names_of[made.name] = number
        if harm is not None:
            harm(made)
    path.with_name("tokens.db.backup-20269999T999999.999999Z-010").write_bytes(b"")
    path.with_name("tokens.db.backup").write_bytes(b"")
    cheap = {names_of[b.path.name]: b.status for b in backups_of(path)}
    assert cheap == {0: "ok", 1: "no manifest", 2: "ok", 3: "no manifest", 4: "no manifest"}
    whole = {names_of[b.path.name]: b.status for b in backups_of(path, verify=True)}
    assert whole == {0: "ok", 1: "no manifest", 2: "changed", 3: "damaged", 4: "damaged"}
    assert [names_of[b.path.name] for b in backups_of(path)] == [4, 3, 2, 1, 0]


def test_a_list_needs_no_database(path: Path, saved: Path) -> None:
    """When the database is gone, the list of its backups is what one needs."""
    assert saved.exists()
    made = back_up(path)
    path.unlink()
    [found] = backups_of(path)
    assert (found.path, found.grants, found.revision) == (made, len(REFRESH_TOKENS), HEAD)
    assert found.made_at == vet(made).made_at.replace(microsecond=found.made_at.microsecond)
    assert refused(lambda: backups_of(path.parent / "nowhere" / "tokens.db")).code == "bad-path"


def test_what_a_crashed_server_left_is_kept_with_the_rest(path: Path, saved: Path) -> None:
    """Rows that are only in the WAL, and a journal that is still hot, are in what is kept."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO schema_version VALUES (41, 1)")
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{path}.copy{suffix}")
    for suffix in ("", "-wal"):
        Path(f"{path}.copy{suffix}").replace(f"{path}{suffix}")
    done = restored(path, saved)
    assert done.kept is not None
    assert [row["version"][1] for row in snapshot(done.kept).rows["schema_version"]] == [41]
    same(snapshot(path), snapshot(saved))
    before = snapshot(path)
    left = path.with_name("left.db")
    crash(path, left)
    for suffix in ("", "-journal"):
        Path(f"{left}{suffix}").replace(f"{path}{suffix}")
    assert weigh(path, saved).grants == len(REFRESH_TOKENS)
    done = restored(path, saved)
    assert done.kept is not None
    same(snapshot(done.kept), before)
    same(snapshot(path), snapshot(saved))
