"""The health checks ``/health/live`` and ``/health/ready``."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from starlette.responses import JSONResponse

from nextcloud_mcp_server.backends.base import Database
from nextcloud_mcp_server.backends.keys import RegisteredKey
from nextcloud_mcp_server.crypto.verification import naming_key_beside
from nextcloud_mcp_server.errors import CODES, TokenStorageError, printable
from nextcloud_mcp_server.migrate.inspect import inspect
from nextcloud_mcp_server.migrate.plan import State

logger = logging.getLogger(__name__)

#: Seconds for which the result of a check is repeated.
CHECK_INTERVAL: Final = 5.0

#: Seconds that a request waits for a check: a disk that hangs must not block the response.
PATIENCE: Final = 2.0

#: Raises if none of the given keys is the primary one of the registered keys.
HasPrimary = Callable[[Sequence[RegisteredKey]], object]

NO_STORE: Final = {"Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class Health:
    """The result of a check: ready if there is no ``reason``.

    The reason contains no path, because the page is public; ``detail`` is the same for the log.
    ``revision`` and ``state`` are those of the database now, ``head`` is that of this program.
    """

    revision: str | None = None
    head: str | None = None
    state: str | None = None
    reason: str = ""
    detail: str = ""
    read_only: bool = False
    wal_bytes: int = 0

    def as_dict(self) -> dict[str, object]:
        """Return what ``/health/ready`` answers."""
        facts: dict[str, object] = {
            "revision": self.revision,
            "head": self.head,
            "state": self.state,
            "wal_bytes": self.wal_bytes,
            **({"read_only": True} if self.read_only else {}),
        }
        if not self.reason:
            return {"status": "ready", **facts}
        return {"status": "unavailable", **facts, "reason": self.reason}

    @property
    def status_code(self) -> int:
        """The status of the response: 200 if ready, otherwise 503."""
        return 503 if self.reason else 200

    def response(self) -> JSONResponse:
        """Return the response: 200, or 503 with a reason."""
        return JSONResponse(self.as_dict(), self.status_code, NO_STORE)


NOT_OPEN: Final = Health(reason="The token store is not open.")


class HealthCheck:
    """Checks the database on request, at most once per ``interval`` (in seconds).

    A request waits ``patience`` seconds for a check. ``still_open`` raises if the database is not
    the one that the store has open, ``has_primary`` if the key that encrypts it was not given.
    """

    def __init__(
        self,
        database: Database,
        *,
        interval: float = CHECK_INTERVAL,
        patience: float = PATIENCE,
        still_open: Callable[[], object] = lambda: None,
        has_primary: HasPrimary = lambda _: None,
    ) -> None:
        self._database = database
        self._interval = interval
        self._patience = patience
        self._still_open = still_open
        self._has_primary = has_primary
        self._open = True
        self._checked = float("-inf")
        self._last = Health()
        self._running: asyncio.Task[Health] | None = None

    async def check(self) -> Health:
        """Return a result that is not older than the interval."""
        if not self._open:
            return NOT_OPEN
        if self._running is None and time.monotonic() - self._checked >= self._interval:
            check = asyncio.to_thread(
                check_database, self._database, self._still_open, self._has_primary
            )
            self._running = asyncio.create_task(check)
            self._running.add_done_callback(self._finished)
        if (running := self._running) is None:
            return self._last
        await asyncio.wait([running], timeout=self._patience)
        if running.done():
            return running.result()
        reason = f"The database did not answer within {self._patience:g} seconds."
        return Health(self._last.revision, self._last.head, reason=reason)

    def _finished(self, check: asyncio.Task[Health]) -> None:
        self._running, self._checked = None, time.monotonic()
        if check.cancelled() or check.exception() is not None:
            return
        result = check.result()
        if result.reason != self._last.reason:
            if result.reason:
                logger.warning("Not ready: %s", result.detail)
            else:
                logger.warning("Ready again: %s is at head", self._database)
        self._last = result

    async def close(self) -> None:
        """Answer "not open" from now on, and wait until no check is running."""
        self._open = False
        if self._running is not None:
            await asyncio.wait([self._running])


def check_database(
    database: Database,
    still_open: Callable[[], object] = lambda: None,
    has_primary: HasPrimary = lambda _: None,
) -> Health:
    """Check ``database`` through a separate connection. Changes nothing.

    ``still_open`` raises if the file is not the one that the store has open; ``has_primary``, with
    the registered keys, if the one that encrypts was not given.
    """
    try:
        still_open()
        report = inspect(database, samples=True)
    except TokenStorageError as error:
        return Health(reason=CODES[error.code], detail=_told(error))
    finding = report.finding
    facts = (finding.recorded, report.history.head, finding.state.value)
    now = Health(*facts, wal_bytes=database.wal_size())
    if report.refusal is not None:
        code = CODES[report.refusal.code]
        return replace(now, reason=code, detail=_told(report.refusal))
    if finding.state is not State.AT_HEAD:
        reason = "The database is no longer at head."
        detail = f"{database} is {finding.state.value}. Restart the server."
        return replace(now, reason=reason, detail=detail)
    try:
        has_primary(known := report.snapshot.keys)
    except TokenStorageError as error:
        error = naming_key_beside(error, report.samples, database.location, known)
        return replace(now, reason=CODES[error.code], detail=_told(error))
    return replace(now, read_only=bool(database.unwritable()))


def _told(error: TokenStorageError) -> str:
    return f"{printable(error.message)} {printable(error.remedy)} [{error.code}]"
