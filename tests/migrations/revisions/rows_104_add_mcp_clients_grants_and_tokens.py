"""Rows for revision 104, add MCP clients, grants and tokens: it changes no row."""

from __future__ import annotations

from typing import Any, Final

ROWS: Final[dict[str, list[dict[str, Any]]]] = {}
