"""Calendars, and the objects in them: what events and tasks share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from uuid import uuid4
from zoneinfo import ZoneInfo

import icalendar

from nextcloud_mcp_server import __version__
from nextcloud_mcp_server.nextcloud import errors
from nextcloud_mcp_server.nextcloud.account import Account
from nextcloud_mcp_server.nextcloud.addresses import DAV, quoted
from nextcloud_mcp_server.nextcloud.connection import Connection, bare_etag, if_match
from nextcloud_mcp_server.nextcloud.dav import document, propfind, query
from nextcloud_mcp_server.nextcloud.errors import NextcloudError
from nextcloud_mcp_server.nextcloud.paging import Progress

#: The name of a new calendar for tasks.
_TASKS: Final = "Tasks"

_PRODUCT: Final = f"-//nextcloud-mcp-server//{__version__}//EN"

#: Times of the zones in a new object: a rule without an end needs the changes of later years.
_YEARS: Final = 20

#: What the values of an object raise that another program has stored: no program checks them all.
UNREADABLE: Final = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip

When = datetime | date


@dataclass(frozen=True)
class Calendar:
    """A calendar; ``components`` has ``VEVENT``, ``VTODO`` or both."""

    id: str
    name: str
    components: frozenset[str]
    writable: bool


@dataclass(frozen=True)
class Stored:
    """An object as it is stored: a whole VCALENDAR under one name."""

    calendar: str
    id: str
    etag: str
    content: icalendar.Component


class Calendars:
    """The calendars of the account."""

    def __init__(self, connection: Connection, account: Account) -> None:
        self._connection = connection
        self._account = account

    async def _path(self, *names: str) -> str:
        return quoted("calendars", (await self._account.user()).id, *names)

    async def list(self) -> tuple[Calendar, ...]:
        """Return the calendars by name, without inbox, outbox, trash bin and subscriptions.

        Raises:
            NextcloudError: the request failed.
        """
        wanted = (
            "d:resourcetype", "d:displayname", "d:current-user-privilege-set",
            "c:supported-calendar-component-set",
        )  # fmt: skip
        found = await propfind(
            self._connection, await self._path(), wanted, depth=1, what="calendars"
        )
        calendars = []
        for resource in found:
            kinds = resource.kinds()
            if "c:calendar" not in kinds or "nccal:deleted-calendar" in kinds:
                continue
            components = resource.properties.get("c:supported-calendar-component-set")
            privileges = resource.properties.get("d:current-user-privilege-set")
            names = {} if privileges is None else {element.tag for element in privileges.iter()}
            calendars.append(
                Calendar(
                    resource.names[-1],
                    resource.text("d:displayname") or resource.names[-1],
                    frozenset(
                        c.get("name", "") for c in (() if components is None else components)
                    ),
                    not {"{DAV:}write", "{DAV:}write-content", "{DAV:}all"}.isdisjoint(names),
                )
            )
        return tuple(
            sorted(calendars, key=lambda calendar: (calendar.name.casefold(), calendar.id))
        )

    async def find(
        self,
        component: str,
        calendar: str | None,
        between: tuple[datetime, datetime] | None = None,
        progress: Progress | None = None,
    ) -> AsyncIterator[Stored]:
        """Yield the objects of a calendar, or of all that take a component.

        Args:
            component: ``VEVENT`` or ``VTODO``.
            calendar: the id of a calendar; None for all.
            between: yields each occurrence in this range on its own, in UTC.
            progress: receives how many of how many calendars are read.

        Raises:
            NextcloudError: a request failed.
        """
        calendars = [calendar] if calendar is not None else []
        if calendar is None:
            calendars = [one.id for one in await self.list() if component in one.components]
        for done, one in enumerate(calendars):
            if progress is not None:
                await progress(done, len(calendars))
            for stored in await self._query(one, component, between):
                yield stored

    async def for_tasks(self) -> tuple[str, str]:
        """Return the id of a calendar that takes tasks; create one if there is none.

        The second text is the name of a created calendar, and empty otherwise. The calendar that
        Nextcloud creates for a new user takes events only.

        Raises:
            NextcloudError: the request failed.
        """
        for calendar in await self.list():
            if "VTODO" in calendar.components and calendar.writable:
                return calendar.id, ""
        name = f"tasks-{uuid4().hex[:8]}"
        body = document(
            "c:mkcalendar",
            f"<d:set><d:prop><d:displayname>{_TASKS}</d:displayname>"
            '<c:supported-calendar-component-set><c:comp name="VTODO"/>'
            "</c:supported-calendar-component-set></d:prop></d:set>",
        )
        await self._connection.send(
            "MKCALENDAR",
            DAV + await self._path(name),
            what="calendar",
            headers={"Content-Type": "application/xml; charset=utf-8"},
            body=body,
        )
        return name, _TASKS

    async def _query(
        self, calendar: str, component: str, between: tuple[datetime, datetime] | None
    ) -> tuple[Stored, ...]:
        """Return the objects of a calendar, without those that cannot be parsed."""
        times, data = "", "<c:calendar-data/>"
        if between is not None:
            start, end = (_in_utc(when) for when in between)
            times = f'<c:time-range start="{start}" end="{end}"/>'
            data = f'<c:calendar-data><c:expand start="{start}" end="{end}"/></c:calendar-data>'
        body = document(
            "c:calendar-query",
            f'<d:prop><d:getetag/>{data}</d:prop><c:filter><c:comp-filter name="VCALENDAR">'
            f'<c:comp-filter name="{component}">{times}</c:comp-filter></c:comp-filter></c:filter>',
        )
        found = await query(
            self._connection,
            "REPORT",
            await self._path(calendar),
            body,
            what=f"calendar {calendar!r}",
        )
        stored = []
        for resource in found:
            content = _parsed(resource.text("c:calendar-data"))
            if content is not None:
                etag = bare_etag(resource.text("d:getetag"))
                stored.append(Stored(calendar, resource.names[-1], etag, content))
        return tuple(stored)

    async def get(self, calendar: str, name: str) -> Stored:
        """Return one object as it is stored.

        Raises:
            NextcloudError: ``not-found``, or the request failed.
        """
        what = f"object {name!r} in the calendar {calendar!r}"
        answer = await self._connection.send(
            "GET", DAV + await self._path(calendar, name), what=what
        )
        content = _parsed(answer.body.decode("utf-8", "replace"))
        if content is None:
            raise errors.unreadable(what)
        return Stored(calendar, name, answer.etag, content)

    async def create(self, calendar: str, component: icalendar.Component) -> Stored:
        """Store a new component under a new UID, with its time zones.

        Raises:
            NextcloudError: ``not-found``, ``forbidden`` if the calendar does not take it, or the
                request failed.
        """
        uid = str(uuid4())
        now = datetime.now(UTC).replace(microsecond=0)
        for name, value in (("UID", uid), ("DTSTAMP", now), ("CREATED", now)):
            component.add(name, value)
        content = icalendar.Calendar()
        content.add("PRODID", _PRODUCT)
        content.add("VERSION", "2.0")
        content.add_component(component)
        try:
            return await self._put(calendar, f"{uid}.ics", content, {"If-None-Match": "*"})
        except NextcloudError as error:
            if error.code != "not-found":
                raise
        # The name of the object is new. Nextcloud says so too for another person's calendar
        # that can only be read.
        raise errors.not_found(f"calendar {calendar!r} that can be written")

    async def update(self, stored: Stored, component: icalendar.Component, etag: str) -> Stored:
        """Store an object whose component was changed, over the version that has this etag.

        Raises:
            NextcloudError: ``changed``, ``forbidden``, or the request failed.
        """
        now = datetime.now(UTC).replace(microsecond=0)
        sequence = number_of(component, "SEQUENCE") + 1
        for name, value in (("DTSTAMP", now), ("LAST-MODIFIED", now), ("SEQUENCE", sequence)):
            replace(component, name, value)
        return await self._put(stored.calendar, stored.id, stored.content, if_match(etag))

    async def _put(
        self, calendar: str, name: str, content: icalendar.Component, headers: dict[str, str]
    ) -> Stored:
        what = f"object {name!r} in the calendar {calendar!r}"
        with readable(what):
            if isinstance(content, icalendar.Calendar):
                years = timedelta(days=366 * _YEARS)
                last = max(date(2038, 1, 1), datetime.now(UTC).date() + years)
                content.add_missing_timezones(last_date=last)
            body = content.to_ical()
        answer = await self._connection.send(
            "PUT",
            DAV + await self._path(calendar, name),
            what=what,
            headers={"Content-Type": "text/calendar; charset=utf-8", **headers},
            body=body,
        )
        # Without an etag Nextcloud has stored something else than what was sent.
        if not answer.etag:
            return await self.get(calendar, name)
        return Stored(calendar, name, answer.etag, content)

    async def delete(self, calendar: str, name: str, etag: str) -> None:
        """Move an object that has this etag to the trash bin of the calendars.

        Raises:
            NextcloudError: ``no-trash``, ``changed``, ``not-found``, or a request failed.
        """
        if not await self._has_trash():
            raise errors.no_calendar_trash()
        what = f"object {name!r} in the calendar {calendar!r}"
        path = DAV + await self._path(calendar, name)
        await self._connection.send("DELETE", path, what=what, headers=if_match(etag))

    async def _has_trash(self) -> bool:
        """Return whether Nextcloud keeps deleted objects; it has done so since version 22.

        No capability says so. An administrator switches it off with a retention of 0 seconds.
        """
        retention = "nccal:trash-bin-retention-duration"
        try:
            found = await propfind(
                self._connection, await self._path("trashbin"), (retention,), depth=0, what="trash"
            )
        except NextcloudError as error:
            if error.code != "not-found":
                raise
            return False
        return all(resource.text(retention) != "0" for resource in found)


def _parsed(text: str) -> icalendar.Component | None:
    try:
        return icalendar.Calendar.from_ical(text) if text.strip() else None
    except UNREADABLE:
        return None


def _in_utc(when: datetime) -> str:
    moment = when.astimezone(UTC)
    # Not %Y, which does not fill up a year to four digits.
    return f"{moment.year:04}{moment:%m%dT%H%M%SZ}"


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Raise an error with a remedy for what another program has stored and cannot be read.

    Raises:
        NextcloudError: ``bad-input``.
    """
    try:
        yield
    except UNREADABLE:
        raise errors.unreadable(what) from None


def replace(component: icalendar.Component, name: str, value: Any) -> None:
    """Set a property to one value, or remove it for an empty one."""
    component.pop(name, None)
    if value not in {None, ""}:
        component.add(name, value)


def storable(when: When) -> When:
    """Return a time with a zone of the IANA database or in UTC; a date stays.

    Raises:
        NextcloudError: ``bad-input`` for a time without a zone.
    """
    if not isinstance(when, datetime):
        return when
    if when.tzinfo is None:
        raise errors.bad_input(
            "The time has no zone.", "Give an offset or a zone, like Europe/Berlin."
        )
    return when if isinstance(when.tzinfo, ZoneInfo) and when.tzinfo.key else when.astimezone(UTC)


def shown(when: When | None, zone: ZoneInfo) -> When | None:
    """Return a stored time with its zone: one in UTC, or in none, gets the person's."""
    if not isinstance(when, datetime):
        return when
    if when.tzinfo is None:
        return when.replace(tzinfo=zone)
    return when.astimezone(zone) if str(when.tzinfo) in {"UTC", "Etc/UTC"} else when


def time_of(component: icalendar.Component, name: str) -> When | None:
    """Return a time of a component; None if there is none, or none that can be read."""
    value = getattr(component.get(name), "dt", None)
    return value if isinstance(value, date) else None


def number_of(component: icalendar.Component, name: str) -> int:
    """Return a number of a component; 0 if there is none, or none that can be read."""
    value = component.get(name)
    return int(value) if isinstance(value, int) else 0


def text_of(component: icalendar.Component, name: str) -> str:
    """Return a text of a component; empty if there is none."""
    value = component.get(name)
    return str(value[0] if isinstance(value, list) else value or "")
