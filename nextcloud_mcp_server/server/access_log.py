"""The access log: one line per request, without what may be secret in it."""

from __future__ import annotations

import logging
import time
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger(__name__)

#: The maximum length of a path in the log.
_LONGEST: Final = 200


class AccessLog:
    """Logs address, method, path, status and duration of each request.

    The query and the headers are left out: they may contain codes and tokens. The lines have the
    level info, and are logged at every level of the log.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        logger.setLevel(logging.INFO)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and log it when it has ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = 500

        async def note_status(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            fields = {
                "client": (scope.get("client") or ("-",))[0],
                "method": scope["method"],
                "path": scope["path"][:_LONGEST],
                "status": status,
                "milliseconds": round(1000 * (time.monotonic() - started), 1),
            }
            logger.info("%s %s %s %d %s ms", *fields.values(), extra={"fields": fields})
