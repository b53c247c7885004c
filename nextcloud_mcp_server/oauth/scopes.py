"""The scopes. App passwords of Nextcloud know none: this server enforces them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

#: What each scope allows, in the order of the page.
SCOPES: Final = {
    "files:read": "Read your files",
    "files:write": "Create, change and delete your files",
    "files:share": "Share your files with a public link",
    "notes:read": "Read your notes",
    "notes:write": "Create and change your notes",
    "calendar:read": "Read your calendars and tasks",
    "calendar:write": "Create, change and delete events and tasks",
    "contacts:read": "Search your contacts",
}

#: The scope that the operator has to allow.
SHARE: Final = "files:share"

#: What a client gets that asks for nothing, and what the metadata of the resource names. The rest
#: is asked for when a tool first needs it.
DEFAULT: Final = ("files:read", "notes:read", "calendar:read", "contacts:read")


def supported(*, read_only: bool, share_links: bool) -> tuple[str, ...]:
    """Return every scope that can be granted."""
    return tuple(
        name
        for name in SCOPES
        if (not read_only or name.endswith(":read")) and (share_links or name != SHARE)
    )


def requested(names: Iterable[str] | None, supported: Iterable[str]) -> tuple[str, ...]:
    """Return the supported scopes that a client asks for; the default if it names none.

    Empty if it names others alone: the default would be more than what it asked for.
    """
    wanted = set(names or ())
    return tuple(name for name in supported if name in wanted) if wanted else DEFAULT
