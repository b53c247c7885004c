"""The arguments of tools as they come in: a text stays a text, and an odd one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata

from nextcloud_mcp_server.nextcloud.dav import NO_XML


class AsGiven(FuncMetadata):
    """The arguments of a tool without lists and objects, whose texts are never parsed as JSON.

    The SDK would take the text ``null`` of a note for a missing one.
    """

    def pre_parse_json(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments as they are."""
        return data


def problem(name: str, arguments: Mapping[str, Any]) -> str | None:
    """Return why a tool is not called with these arguments; None if their texts can be stored.

    It has no character of a value, and of the names only what can be shown.
    """
    for argument, value in arguments.items():
        if isinstance(value, str) and (found := NO_XML.search(value)):
            return (
                f"{_shown(name)} was not called: {_shown(argument)} has the character "
                f"U+{ord(found[0]):04X}, which Nextcloud cannot store. Leave it out."
            )
    return None if _shown(name) == name else f"There is no tool {_shown(name)}."


def _shown(name: str) -> str:
    return name if name.isidentifier() else ascii(name)
