"""The orders that a victim carries out as the program does: nothing may be lost in any."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.filesystem import mounts
from nextcloud_mcp_server.maintenance import repair as repair_module
from nextcloud_mcp_server.maintenance import restore as restore_module
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.restore_preview import preview_restore
from nextcloud_mcp_server.migrations import downgrade_database, stamp_database, upgrade_database
from nextcloud_mcp_server.settings import load_settings
from tests.faults.telling import promise
from tests.support.contents import KEY

Order = Callable[[Path, str], None]


def start(path: Path, _argument: str) -> None:
    """Start on the database, as a server does."""
    upgrade_database(path)


def downgrade(path: Path, argument: str) -> None:
    """Go back to a revision."""
    downgrade_database(path, argument)


def stamp(path: Path, argument: str) -> None:
    """Record a revision."""
    stamp_database(path, argument)


def backup(path: Path, _argument: str) -> None:
    """Back the database up."""
    promise(f"backup {back_up(path).name}")


def restore(path: Path, argument: str) -> None:
    """Restore the backup of this name, which lies beside the database."""
    restore_module.restore(preview_restore(path, path.with_name(argument)))


def repair(path: Path, _argument: str) -> None:
    """Mend what the doctor calls mendable."""
    repair_module.repair(load_settings(database=path))


def store(path: Path, argument: str) -> None:
    """Store tokens one by one; each acknowledged one is told at once."""
    asyncio.run(_store(path, int(argument), KEY))


def first_store(path: Path, argument: str) -> None:
    """As ``store``, with the key that the first start makes beside the database."""
    asyncio.run(_store(path, int(argument), None))


def start_with_key(path: Path, _argument: str) -> None:
    """Start as a server without a key in its settings, which finds the one it made."""

    async def main() -> None:
        async with RefreshTokenStorage(path):
            pass

    asyncio.run(main())


async def _store(path: Path, count: int, key: str | None) -> None:
    async with RefreshTokenStorage(path, encryption_key=key) as storage:
        for number in range(count):
            await storage.store_refresh_token(f"user-{number}", f"token-{number}")
            promise(f"stored user-{number}")


def store_together(path: Path, argument: str) -> None:
    """Store tokens at once, so that they share commits; each acknowledged one is told."""

    async def main() -> None:
        async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
            await asyncio.gather(*(keep(storage, number) for number in range(int(argument))))

    async def keep(storage: RefreshTokenStorage, number: int) -> None:
        await storage.store_refresh_token(f"user-{number}", f"token-{number}")
        promise(f"stored user-{number}")

    asyncio.run(main())


def store_on_network(path: Path, argument: str) -> None:
    """As ``store``, on what passes for a network file system: no WAL there."""
    elsewhere = mounts.on_network
    try:
        vars(mounts)["on_network"] = lambda *_: True
        store(path, argument)
    finally:
        vars(mounts)["on_network"] = elsewhere


def delete(path: Path, argument: str) -> None:
    """Delete tokens one by one; each acknowledged deletion is told at once."""

    async def main() -> None:
        async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
            for number in range(int(argument)):
                await storage.delete_refresh_token(f"user-{number}")
                promise(f"deleted user-{number}")

    asyncio.run(main())


ORDERS: Final[dict[str, Order]] = {
    order.__name__: order
    for order in (
        start,
        start_with_key,
        downgrade,
        stamp,
        backup,
        repair,
        restore,
        store,
        first_store,
        store_together,
        store_on_network,
        delete,
    )
}
