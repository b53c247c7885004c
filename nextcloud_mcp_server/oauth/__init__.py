"""The authorization server for MCP clients; people sign in with Nextcloud's Login Flow v2."""
