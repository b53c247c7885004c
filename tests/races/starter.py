"""A process that starts the store when it is told to, and says what it did."""

from __future__ import annotations

import asyncio
import json
import sys

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate import run  # noqa: F401 - imported before the gun goes off


async def start(path: str, key: str) -> dict[str, object]:
    """Open the store, read every user, and close it."""
    try:
        async with RefreshTokenStorage(path, encryption_key=key) as storage:
            users = await storage.list_user_ids()
            assert storage.outcome is not None
            action = storage.outcome.action.value
    except TokenStorageError as error:
        return {"error": f"{error.code}: {error.message}"}
    return {"action": action, "users": users}


def main() -> None:
    """Start once for every line of JSON on the standard input."""
    print(json.dumps({"ready": True}), flush=True)  # noqa: T201 - the protocol
    for line in sys.stdin:
        order = json.loads(line)
        answer = asyncio.run(start(order["path"], order["key"]))
        print(json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
