"""The operations that run with faults injected; each acknowledges what must survive."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.filesystem import mounts
from nextcloud_mcp_server.maintenance import repair as repair_module
from nextcloud_mcp_server.maintenance import restore as restore_module
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.keys import rotate as rotate_module
from nextcloud_mcp_server.maintenance.keys.compaction import compact
from nextcloud_mcp_server.maintenance.keys.retire import retire
from nextcloud_mcp_server.maintenance.restore_preview import preview_restore
from nextcloud_mcp_server.migrate import change
from nextcloud_mcp_server.migrations import downgrade_database, stamp_database, upgrade_database
from nextcloud_mcp_server.settings import Settings, load_settings
from tests.support.contents import KEY, OTHER_KEY

#: Called with each acknowledgement, before it is written.
on_acknowledge: list[Callable[[str], None]] = []


def reply(message: dict[str, Any]) -> None:
    """Write one line of JSON to the test, unbuffered."""
    os.write(1, json.dumps(message).encode() + b"\n")


def acknowledge(what: str) -> None:
    """Report that ``what`` is done and must survive any fault from now on."""
    for callback in on_acknowledge:
        callback(what)
    reply({"acknowledged": what})


def start(path: Path, _argument: str) -> None:
    """Start on the database, as a server does."""
    upgrade_database(path)


def downgrade(path: Path, argument: str) -> None:
    """Go back to a revision."""
    downgrade_database(path, argument)


def downgrade_with_key(path: Path, argument: str) -> None:
    """Go back to a revision that cannot read what is encrypted now."""
    change.downgrade(connect(path), argument, keyring=Keyring(KEY))


def stamp(path: Path, argument: str) -> None:
    """Record a revision."""
    stamp_database(path, argument)


def backup(path: Path, _argument: str) -> None:
    """Back the database up."""
    acknowledge(f"backup {back_up(path).name}")


def restore(path: Path, argument: str) -> None:
    """Restore the backup of this name beside the database."""
    restore_module.restore(preview_restore(path, path.with_name(argument)))


def repair(path: Path, _argument: str) -> None:
    """Repair what the doctor marks as fixable."""
    repair_module.repair(load_settings(database=path))


#: The key that encrypts after a promotion, and the former one.
KEYS: Final = (OTHER_KEY, KEY)

#: What is acknowledged if a file holds no old value any more.
COMPACTED: Final = "compacted"

#: The rows of one transaction of a rotation here, so that a few rows take several.
AT_ONCE: Final = 4


def rotate_keys(path: Path, _argument: str) -> None:
    """Encrypt every secret with the key that encrypts now."""
    usual = rotate_module._AT_ONCE
    try:
        vars(rotate_module)["_AT_ONCE"] = AT_ONCE
        done = rotate_module.rotate(Settings(path, KEYS))
    finally:
        vars(rotate_module)["_AT_ONCE"] = usual
    acknowledge(done.not_compacted or COMPACTED)


def retire_keys(path: Path, _argument: str) -> None:
    """Retire the former key for each format, acknowledge each, and compact the file."""
    [former] = Keyring(KEY).fingerprints
    for fernet in (True, False):
        done = retire(Settings(path, KEYS), former, fernet=fernet)
        acknowledge(f"retired {done.kind}")
    acknowledge(compact(Settings(path, KEYS)) or COMPACTED)


def store(path: Path, argument: str, key: str | None = KEY) -> None:
    """Store tokens one by one and acknowledge each at once."""

    async def one_by_one(storage: RefreshTokenStorage) -> None:
        for number in range(int(argument)):
            await _store_one(storage, number)

    _with_store(path, one_by_one, key)


def first_store(path: Path, argument: str) -> None:
    """Store tokens with the key that the first start creates beside the database."""
    store(path, argument, None)


def start_with_key(path: Path, _argument: str) -> None:
    """Start without a key in the settings, with the key file of an earlier start."""
    store(path, "0", None)


def store_together(path: Path, argument: str) -> None:
    """Store tokens concurrently, so that they share commits, and acknowledge each."""

    async def together(storage: RefreshTokenStorage) -> None:
        await asyncio.gather(*(_store_one(storage, number) for number in range(int(argument))))

    _with_store(path, together)


def delete(path: Path, argument: str) -> None:
    """Delete tokens one by one and acknowledge each at once."""

    async def one_by_one(storage: RefreshTokenStorage) -> None:
        for number in range(int(argument)):
            await storage.delete_refresh_token(f"user-{number}")
            acknowledge(f"deleted user-{number}")

    _with_store(path, one_by_one)


async def _store_one(storage: RefreshTokenStorage, number: int) -> None:
    await storage.store_refresh_token(f"user-{number}", f"token-{number}")
    acknowledge(f"stored user-{number}")


def _with_store(
    path: Path, work: Callable[[RefreshTokenStorage], Awaitable[None]], key: str | None = KEY
) -> None:
    async def main() -> None:
        async with RefreshTokenStorage(path, encryption_key=key) as storage:
            await work(storage)

    asyncio.run(main())


def store_on_network(path: Path, argument: str) -> None:
    """Store tokens as on a network file system, where the program does not use WAL."""
    elsewhere = mounts.is_not_local
    try:
        vars(mounts)["is_not_local"] = lambda *_: True
        store(path, argument)
    finally:
        vars(mounts)["is_not_local"] = elsewhere
