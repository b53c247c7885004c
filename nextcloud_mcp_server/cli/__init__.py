"""The command line: nextcloud-mcp-server."""
