"""Rate limits: how many requests an address may send to an endpoint."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from starlette.responses import JSONResponse

from nextcloud_mcp_server.secret import hidden

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

#: Addresses that are remembered.
_MOST: Final = 10_000


class RateLimit:
    """Answers 429 to an address that sends more than ``burst`` requests at once.

    Args:
        app: what is limited.
        burst: requests at once.
        per_second: requests in the long run.
    """

    def __init__(self, app: ASGIApp, *, burst: int, per_second: float) -> None:
        self._app = app
        self._burst = burst
        self._per_second = per_second
        #: The requests that are left, and when that was computed.
        self._left: dict[str, tuple[float, float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        scope = hidden(scope)
        address = (scope.get("client") or ("",))[0]
        if (wait := self._wait(address, time.monotonic())) == 0:
            await self._app(scope, receive, send)
            return
        response = JSONResponse(
            {"error": "temporarily_unavailable", "error_description": "Too many requests"},
            429,
            {"Retry-After": str(math.ceil(wait)), "Cache-Control": "no-store"},
        )
        await response(scope, receive, send)

    def _wait(self, address: str, now: float) -> float:
        """Return the seconds until a request is allowed; count one if it is now."""
        left, at = self._left.get(address, (float(self._burst), now))
        left = min(self._burst, left + (now - at) * self._per_second)
        if len(self._left) >= _MOST:
            # Those that are remembered longest.
            for old in list(self._left)[: _MOST // 2]:
                del self._left[old]
        self._left.pop(address, None)
        self._left[address] = (left - 1 if left >= 1 else left, now)
        return 0 if left >= 1 else (1 - left) / self._per_second
