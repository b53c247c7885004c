"""Run ``python -m nextcloud_mcp_server``, which is the command nextcloud-mcp-server."""

from __future__ import annotations

import sys

from nextcloud_mcp_server.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
