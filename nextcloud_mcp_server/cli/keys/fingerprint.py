"""The argument that names a key, and the document about a changed one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from nextcloud_mcp_server.maintenance.keys.promote import Changed


class Fingerprint(click.ParamType[str]):
    """The 8 digits of a fingerprint, or the 16 of an id. A key itself is refused."""

    name = "fingerprint"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the digits in lower case."""
        if re.fullmatch(r"[0-9a-fA-F]{8}|[0-9a-fA-F]{16}", value) is None:
            # Not the value: it may be a key.
            self.fail("give the 8 digits that `keys list` shows, never a key.", param, ctx)
        return str(value).lower()


def facts(done: Changed, database: object) -> dict[str, Any]:
    """Return the document of a command that changes one key."""
    return {"database": str(database), **done._asdict()}
