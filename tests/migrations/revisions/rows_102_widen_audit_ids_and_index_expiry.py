"""Rows for revision 102, widen audit ids and index expiry: it changes no row and no column."""

from __future__ import annotations

from typing import Any, Final

ROWS: Final[dict[str, list[dict[str, Any]]]] = {}
