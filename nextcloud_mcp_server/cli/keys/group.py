"""The group ``keys`` with all of its commands."""

from __future__ import annotations

from typing import Final

import click

from nextcloud_mcp_server.cli.keys.generate import generate
from nextcloud_mcp_server.cli.keys.introduce import introduce
from nextcloud_mcp_server.cli.keys.listing import list_keys
from nextcloud_mcp_server.cli.keys.promote import promote
from nextcloud_mcp_server.cli.keys.retire import retire
from nextcloud_mcp_server.cli.keys.rotate import rotate

#: The commands by name; :mod:`nextcloud_mcp_server.cli.root` has their summaries.
key_commands: Final = click.Group(
    "keys", commands=[generate, introduce, list_keys, promote, retire, rotate]
)
