"""Remove from a file what its rows do not hold any more."""

from __future__ import annotations

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.keys.opened import Opened, opened
from nextcloud_mcp_server.progress import Reporter, silent
from nextcloud_mcp_server.settings import Settings


def compact(settings: Settings, report: Reporter = silent) -> str:
    """Do the same as :func:`compact_opened` with the database of ``settings``.

    Raises:
        TokenStorageError: as :func:`~.opened.opened`.
    """
    with opened(settings) as place:
        return compact_opened(place, report)


def compact_opened(place: Opened, report: Reporter) -> str:
    """Remove deleted and replaced values from a file; return why that failed, or an empty text.

    Always, also if nothing was changed now: an earlier command may have been killed before it, or
    a store may have changed the values.
    """
    report("removing old values from the file")
    try:
        place.pool.check()
        place.database.compact()
    except TokenStorageError as error:
        return error.message
    return ""
