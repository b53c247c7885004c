"""A process of the soak: it writes and reads, under full disks and a clock that jumps.

It prints ``open`` once, then ``USER NUMBER`` for every write that was acknowledged, ``fault KIND``
for every fault, and a line that begins with ``wrong`` for whatever must not happen.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import sys
import time
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from tests.faults.injection import COUNT, ENOSPC
from tests.support.contents import KEY

#: How many users each process writes for.
USERS: Final = 20

#: How far the clock jumps at most, in seconds: ten years.
_JUMP: Final = 10 * 365 * 86_400

#: What a call may answer while the disk is full.
_FULL: Final = frozenset({"disk-full", "io-error"})


def _say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201 - read by the test


class _Faults:
    """The clock and the disk of this process."""

    def __init__(self, folder: Path) -> None:
        library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self._offset = ctypes.c_long.in_dll(library, "clock_offset")
        ctypes.c_int.in_dll(library, "fault_spares_existing").value = 1
        self._arm, self._folder = library.fault_arm, os.fsencode(folder)
        self._until = 0.0
        self.is_full = False

    def change(self, rng: random.Random) -> None:
        """Sometimes let the clock jump, fill the disk for a moment, or free it again."""
        now = time.monotonic()
        if rng.random() < 0.01:
            self._offset.value = rng.randint(-_JUMP, _JUMP)
            _say("fault clock jump")
        if self.is_full and now > self._until:
            self._fill(COUNT)
        elif not self.is_full and rng.random() < 0.005:
            self._until = now + rng.uniform(0.01, 0.2)
            self._fill(ENOSPC)
            _say("fault full disk")

    def _fill(self, kind: int) -> None:
        self._arm(self._folder, ctypes.c_long(1), kind)
        self.is_full = kind == ENOSPC


async def _soak(path: Path, name: str, first: int, early: bool) -> None:
    rng = random.Random(f"{name} {first}")  # noqa: S311 - repeatable
    faults, stored = _Faults(path.parent), dict[str, int]()
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        _say("open")
        for number in range(first, first + 1_000_000):
            faults.change(rng)
            user = f"{name}-{rng.randrange(USERS)}"
            if early:
                _say(user, number)
                await asyncio.sleep(0.01)
            try:
                await storage.store_refresh_token(user, str(number))
            except TokenStorageError as error:
                # Of this write nothing is known.
                stored.pop(user, None)
                if not (faults.is_full and error.code in _FULL):
                    _say("wrong", error.code, error)
                continue
            stored[user] = number
            _say(user, number)
            user, expected = rng.choice([*stored.items()])
            token = await storage.get_refresh_token(user)
            if token is None or token.token != str(expected):
                _say("wrong", user, expected, "was not read")


if __name__ == "__main__":
    asyncio.run(_soak(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "early"))
