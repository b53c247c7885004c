"""The tools of MCP: what an assistant can do in a person's Nextcloud."""
