"""Times in the arguments of tools: a date, or a time with or without an offset."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from mcp.server.mcpserver.exceptions import ToolError

from nextcloud_mcp_server.nextcloud.client import Nextcloud


async def zone_of(nextcloud: Nextcloud, name: str | None = None) -> ZoneInfo:
    """Return the named zone, else that of the person's settings, else UTC.

    Raises:
        ToolError: there is no zone of this name.
        NextcloudError: the request failed.
    """
    if name:
        return _zone(name)
    # Nextcloud stores what a browser has told it.
    try:
        return _zone((await nextcloud.account.user()).timezone or "UTC")
    except ToolError:
        return ZoneInfo("UTC")


def zone_advice(name: str) -> str:
    """Return what to tell about the zone of the person's settings; empty if it can be used."""
    told = "No time zone is set in Nextcloud"
    if name:
        try:
            _zone(name)
        except ToolError:
            told = f"The time zone {name!r} of Nextcloud is not known here"
        else:
            return ""
    return f"{told}: times without one are taken as UTC. Set it there, or pass `zone`."


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    # OSError: the name is that of a folder.
    except (KeyError, ValueError, OSError):
        raise ToolError(
            f"There is no time zone {name!r}. Give a name like Europe/Berlin or UTC."
        ) from None


def when(text: str, zone: ZoneInfo) -> datetime | date:
    """Return a date, or a time in ``zone``; one without an offset is meant in this zone.

    Raises:
        ToolError: it is neither, or its year is not 2 to 9998.
    """
    try:
        whole = "T" not in text.upper() and ":" not in text
        time = (date if whole else datetime).fromisoformat(text)
    except ValueError:
        raise ToolError(
            f"{text!r} is not a date or a time. Give one like 2026-11-30 or 2026-11-30T09:00, "
            "with an offset like +01:00 if it is not in the person's time zone."
        ) from None
    # Those at the ends cannot be converted to every zone.
    if not date.min.year < time.year < date.max.year:
        raise ToolError(f"{text!r} is too early or too late. Give a year from 2 to 9998.")
    if not isinstance(time, datetime):
        return time
    return time.astimezone(zone) if time.tzinfo else time.replace(tzinfo=zone)


def beginning(text: str, zone: ZoneInfo) -> datetime:
    """Return a time; that of midnight for a date.

    Raises:
        ToolError: it is neither.
    """
    return _midnight(when(text, zone), zone)


def end(text: str, zone: ZoneInfo) -> datetime:
    """Return a time; that of the midnight after a date, so that the day belongs to the range.

    Raises:
        ToolError: it is neither.
    """
    found = when(text, zone)
    return _midnight(found if isinstance(found, datetime) else found + timedelta(days=1), zone)


def _midnight(found: date, zone: ZoneInfo) -> datetime:
    """Return a time as it is, and the beginning of a date."""
    if isinstance(found, datetime):
        return found
    return datetime(found.year, found.month, found.day, tzinfo=zone)
