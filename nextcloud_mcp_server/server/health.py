"""What ``/health/live`` and ``/health/ready`` answer."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from starlette.responses import JSONResponse

from nextcloud_mcp_server.errors import CODES, TokenStorageError, with_code
from nextcloud_mcp_server.filesystem import permissions
from nextcloud_mcp_server.migrate.inspect import examine
from nextcloud_mcp_server.migrate.plan import State

logger = logging.getLogger(__name__)

#: Seconds for which the answer of a look at the database is given again.
CHECK_INTERVAL: Final = 5.0

#: Seconds that a hit waits for a look; a disk that hangs must not hang the answer.
PATIENCE: Final = 2.0

NO_STORE: Final = {"Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What ``/health/ready`` says. Ready means that there is no ``reason`` not to be.

    Attributes:
        revision: the revision that the database records now.
        head: the newest revision of this program.
        state: the state of the database now; None where it could not be told.
        reason: why requests should go elsewhere. It names no path: anybody may ask.
        detail: the same for the log, with the path.
        read_only: whether the store can only be read.
    """

    revision: str | None = None
    head: str | None = None
    state: str | None = None
    reason: str = ""
    detail: str = ""
    read_only: bool = False

    def response(self) -> JSONResponse:
        """200, or 503 with a reason."""
        facts: dict[str, object] = {
            "revision": self.revision,
            "head": self.head,
            "state": self.state,
            **({"read_only": True} if self.read_only else {}),
        }
        if not self.reason:
            return JSONResponse({"status": "ready", **facts}, headers=NO_STORE)
        body = {"status": "unavailable", **facts, "reason": self.reason}
        return JSONResponse(body, status_code=503, headers=NO_STORE)


NOT_OPEN: Final = Verdict(reason="The token store is not open.")


class Readiness:
    """Looks at the database when it is asked, at most once per interval.

    Args:
        database: the file that the store has open.
        interval: seconds for which an answer is given again.
        patience: seconds that an asker waits for a look.
        read_only: whether the store was opened for reading only.
    """

    def __init__(
        self,
        database: Path,
        *,
        interval: float = CHECK_INTERVAL,
        patience: float = PATIENCE,
        read_only: bool = False,
    ) -> None:
        self._database = database
        self._read_only = read_only
        self._interval = interval
        self._patience = patience
        self._opened = identity(database)
        self._open = True
        self._checked = float("-inf")
        self._last = Verdict()
        self._look: asyncio.Task[Verdict] | None = None

    async def verdict(self) -> Verdict:
        """What is known now, from a look that is younger than the interval."""
        if not self._open:
            return NOT_OPEN
        if self._look is None and time.monotonic() - self._checked >= self._interval:
            self._look = asyncio.create_task(
                asyncio.to_thread(look_at, self._database, self._opened)
            )
            self._look.add_done_callback(self._looked)
        if self._look is not None:
            looking = self._look
            await asyncio.wait([looking], timeout=self._patience)
            if not looking.done():
                seconds = f"The database did not answer within {self._patience:g} seconds."
                return Verdict(self._last.revision, self._last.head, reason=seconds)
            return self._told(looking.result())
        return self._told(self._last)

    def _told(self, verdict: Verdict) -> Verdict:
        # Opened for reading, it stays so, even where the file can be written by now.
        return replace(verdict, read_only=verdict.read_only or self._read_only)

    def _looked(self, look: asyncio.Task[Verdict]) -> None:
        self._look, self._checked = None, time.monotonic()
        if look.cancelled() or look.exception() is not None:
            return
        verdict = look.result()
        if verdict.reason != self._last.reason:
            if verdict.reason:
                logger.warning("Not ready: %s", verdict.detail)
            else:
                logger.warning("Ready again: %s is at head", self._database)
        self._last = verdict

    async def close(self) -> None:
        """Answer "not open" from now on; returns when no look is under way any more."""
        self._open = False
        if self._look is not None:
            await asyncio.wait([self._look])


def identity(database: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None where it is not there."""
    with suppress(OSError):
        found = database.stat()
        return found.st_dev, found.st_ino
    return None


def look_at(database: Path, opened: tuple[int, int] | None) -> Verdict:
    """Look at ``database`` with a connection of its own; changes nothing.

    Args:
        database: the file.
        opened: the identity of the file that the store has open: it would go on reading
            and writing one that has been removed or replaced.
    """
    if (found := identity(database)) is None or found != opened:
        what = "gone" if found is None else "another one than the server opened"
        return Verdict(
            reason=f"The database file is {what}.",
            detail=f"{database} is {what}. Put it back or restart the server.",
        )
    try:
        report = examine(database)
    except TokenStorageError as error:
        return Verdict(reason=CODES[error.code], detail=with_code(error))
    finding = report.finding
    facts = (finding.recorded, report.head, finding.state.value)
    if report.refusal is not None:
        return Verdict(*facts, CODES[report.refusal.code], with_code(report.refusal))
    if finding.state is not State.AT_HEAD:
        reason = "The database is not at head any more."
        return Verdict(*facts, reason, f"{database} is {finding.state.value}. Restart the server.")
    return Verdict(*facts, read_only=bool(permissions.unwritable(database)))
