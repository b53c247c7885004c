"""Events: occurrences in a range, and to create, change and delete them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import icalendar

from nextcloud_mcp_server.nextcloud import errors
from nextcloud_mcp_server.nextcloud.calendars import (
    UNREADABLE,
    Calendars,
    Stored,
    When,
    readable,
    replace,
    shown,
    storable,
    text_of,
    time_of,
)
from nextcloud_mcp_server.nextcloud.paging import Page, Progress, page


@dataclass(frozen=True)
class Event:
    """An event, or one occurrence of it.

    ``start`` and ``end`` are times with a zone, or dates for an event of whole days, whose end is
    the day after the last. ``rule`` is an RRULE; a listed occurrence has none, and ``recurring``
    is true. ``attendees`` are mail addresses; Nextcloud mails them about a change.
    """

    calendar: str
    id: str
    etag: str
    title: str
    start: When
    end: When
    location: str
    description: str
    status: str
    recurring: bool
    rule: str
    attendees: tuple[str, ...]


class Events:
    """The events of the account."""

    def __init__(self, calendars: Calendars) -> None:
        self._calendars = calendars

    async def list(
        self,
        start: datetime,
        end: datetime,
        *,
        zone: ZoneInfo,
        calendar: str | None = None,
        cursor: str | None = None,
        progress: Progress | None = None,
    ) -> Page[Event]:
        """Return the occurrences in a range by time, of one calendar or of all.

        Args:
            start: the beginning of the range, with a zone.
            end: its end, which does not belong to it.
            zone: the zone in which the times are returned.
            calendar: the id of a calendar.
            cursor: that of the page.
            progress: receives how many of how many calendars are read.

        Raises:
            NextcloudError: ``bad-input``, ``not-found``, or the request failed.
        """
        if start.tzinfo is None or end.tzinfo is None or start >= end:
            raise errors.bad_input(
                "The range has no zone, or ends before it begins.",
                "Give a start and a later end, both with an offset or a zone.",
            )
        asked = _widened(start, end)
        found = []
        async for stored in self._calendars.find("VEVENT", calendar, asked, progress):
            found += _occurrences(stored, start, end, zone)
        found.sort(key=lambda event: (_moment(event.start, zone), event.title, event.id))
        return page(found, cursor)

    async def read(self, calendar: str, event_id: str, *, zone: ZoneInfo) -> Event:
        """Return an event as it is stored, with its rule and its own zone.

        Raises:
            NextcloudError: ``not-found``, or the request failed.
        """
        stored = await self._calendars.get(calendar, event_id)
        with readable(f"event {event_id!r}"):
            return self._result(stored, _master(stored), zone)

    async def create(
        self,
        calendar: str,
        *,
        title: str,
        start: When,
        end: When,
        zone: ZoneInfo,
        location: str = "",
        description: str = "",
        rule: str = "",
    ) -> Event:
        """Create an event, with the VTIMEZONE of its zone.

        Raises:
            NextcloudError: ``bad-input``, ``not-found``, ``forbidden``, or the request failed.
        """
        component = icalendar.Event()
        _set_times(component, start, end)
        _set_texts(component, title, location, description)
        if rule:
            component.add("RRULE", _rule(rule))
        return self._result(await self._calendars.create(calendar, component), component, zone)

    async def update(
        self,
        calendar: str,
        event_id: str,
        *,
        etag: str,
        zone: ZoneInfo,
        title: str | None = None,
        start: When | None = None,
        end: When | None = None,
        location: str | None = None,
        description: str | None = None,
        rule: str | None = None,
    ) -> Event:
        """Change an event, the whole series if it recurs; None leaves a part as it is.

        A new start without an end keeps the duration. An empty rule ends the recurrence.

        Raises:
            NextcloudError: ``changed``, ``bad-input`` (also for a new time or rule of a series
                with changed or excluded occurrences), ``not-found``, or the request failed.
        """
        stored = await self._calendars.get(calendar, event_id)
        with readable(f"event {event_id!r}"):
            component = _master(stored)
            if stored.etag != etag:
                raise errors.changed(f"event {event_id!r}")
            if start is not None or end is not None or rule is not None:
                _check_single(stored, component)
            if start is not None or end is not None:
                _move(component, start, end)
            _set_texts(component, title, location, description)
            if rule is not None:
                replace(component, "RRULE", _rule(rule) if rule else None)
            # Before it is written.
            self._result(stored, component, zone)
        return self._result(await self._calendars.update(stored, component, etag), component, zone)

    async def delete(self, calendar: str, event_id: str, *, etag: str) -> None:
        """Move an event, the whole series if it recurs, to the trash bin of the calendars.

        Raises:
            NextcloudError: ``no-trash``, ``changed``, ``not-found``, or a request failed.
        """
        await self._calendars.delete(calendar, event_id, etag)

    def _result(self, stored: Stored, component: icalendar.Component, zone: ZoneInfo) -> Event:
        event = _event(stored, component, zone)
        if event is None:
            raise errors.not_found(f"start of the event {stored.id!r}")
        return event


def _occurrences(stored: Stored, start: datetime, end: datetime, zone: ZoneInfo) -> list[Event]:
    """Return the events of an object that are in a range; none if it cannot be read."""
    try:
        events = [_event(stored, part, zone) for part in stored.content.walk("VEVENT")]
        return [event for event in events if event and _is_in(event, start, end, zone)]
    except UNREADABLE:
        return []


def _check_single(stored: Stored, component: icalendar.Component) -> None:
    """Check that a new time or rule loses no occurrence."""
    single = len(stored.content.walk("VEVENT")) == 1
    if not single or not {"EXDATE", "RDATE"}.isdisjoint(component):
        raise errors.bad_input(
            "Single occurrences of this event were changed or excluded, and a new time or "
            "rule would lose them; nothing was written.",
            "Change the time in Nextcloud, or create a new event.",
        )


def _widened(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """Return a range that has every day of the asked one, in whatever zone.

    Nextcloud compares an event of whole days as if it were in UTC.
    """
    day = timedelta(days=1)
    try:
        return start.astimezone(UTC) - day, end.astimezone(UTC) + day
    except OverflowError:
        raise errors.bad_input(
            "The range begins too early, or ends too late.", "Give years from 2 to 9998."
        ) from None


def _is_in(event: Event, start: datetime, end: datetime, zone: ZoneInfo) -> bool:
    first, last = _moment(event.start, zone), _moment(event.end, zone)
    # An event without a duration is in the range that begins with it.
    return first < end and (last > start or first >= start)


def _master(stored: Stored) -> icalendar.Component:
    """Return the component of the whole series."""
    parts = stored.content.walk("VEVENT")
    for part in parts:
        if "RECURRENCE-ID" not in part:
            return part
    raise errors.not_found(f"event {stored.id!r}, only single occurrences of it")


def _event(stored: Stored, part: icalendar.Component, zone: ZoneInfo) -> Event | None:
    if time_of(part, "DTSTART") is None:
        return None
    start, end = (shown(when, zone) for when in _span(part))
    assert start is not None  # noqa: S101 - only None becomes None
    assert end is not None  # noqa: S101
    rule = part.get("RRULE")
    return Event(
        calendar=stored.calendar,
        id=stored.id,
        etag=stored.etag,
        title=text_of(part, "SUMMARY"),
        start=start,
        end=end,
        location=text_of(part, "LOCATION"),
        description=text_of(part, "DESCRIPTION"),
        status=text_of(part, "STATUS"),
        recurring=rule is not None or "RECURRENCE-ID" in part,
        rule=_rule_text(rule),
        attendees=_attendees(part),
    )


def _attendees(part: icalendar.Component) -> tuple[str, ...]:
    found = part.get("ATTENDEE", [])
    each = found if isinstance(found, list) else [found]
    return tuple(re.sub("^mailto:", "", str(one), flags=re.IGNORECASE) for one in each)


def _span(part: icalendar.Component) -> tuple[When, When]:
    start = time_of(part, "DTSTART")
    if start is None:
        raise errors.bad_input("The event has no start.", "Open it in Nextcloud.")
    end = time_of(part, "DTEND")
    if end is not None:
        return start, end
    length = getattr(part.get("DURATION"), "dt", None)
    if not isinstance(length, timedelta):
        length = timedelta() if isinstance(start, datetime) else timedelta(days=1)
    return start, start + length


def _move(component: icalendar.Component, start: When | None, end: When | None) -> None:
    """Set a new start, which keeps the duration, or a new end, or both."""
    old_start, old_end = _span(component)
    if start is None:
        stored = component["DTSTART"]
        _set_times(component, old_start, end if end is not None else old_end)
        # In its own zone, which may be one that only the object defines.
        component["DTSTART"] = stored
        return
    if end is None:
        if isinstance(start, datetime) != isinstance(old_start, datetime):
            raise errors.bad_input(
                "The event changes between a time and whole days.", "Give its new end too."
            )
        length: timedelta = old_end - old_start  # type: ignore[operator]  # two of one kind
        try:
            end = start + length
        except OverflowError:
            raise errors.bad_input(
                "The event then ends too late; nothing was written.", "Give its new end too."
            ) from None
    _set_times(component, start, end)


def _set_times(component: icalendar.Component, start: When, end: When) -> None:
    if isinstance(start, datetime) != isinstance(end, datetime):
        raise errors.bad_input("Start and end are a date and a time.", "Give two of one kind.")
    start, end = storable(start), storable(end)
    if end < start or (not isinstance(start, datetime) and end == start):
        raise errors.bad_input(
            "The event ends before it begins.",
            "Give a later end. For whole days it is the day after the last one.",
        )
    replace(component, "DTSTART", start)
    replace(component, "DTEND", end)
    component.pop("DURATION", None)


def _set_texts(
    component: icalendar.Component, title: str | None, location: str | None, description: str | None
) -> None:
    texts = (("SUMMARY", title), ("LOCATION", location), ("DESCRIPTION", description))
    for name, value in texts:
        if value is not None:
            replace(component, name, value)


def _rule(text: str) -> icalendar.vRecur:
    wrong = errors.bad_input(
        "The recurrence is not a rule of iCalendar.", "Give one like FREQ=WEEKLY;BYDAY=MO,WE."
    )
    if any(character in text for character in "\r\n:"):
        raise wrong
    try:
        rule: icalendar.vRecur = icalendar.vRecur.from_ical(text)
        rule.to_ical()  # type: ignore[no-untyped-call]
    except UNREADABLE:
        raise wrong from None
    if "FREQ" not in rule:
        raise wrong
    return rule


def _rule_text(rule: object) -> str:
    # Several rules would be a list; nothing writes them any more.
    return rule.to_ical().decode() if isinstance(rule, icalendar.vRecur) else ""  # type: ignore[no-untyped-call]


def _moment(when: date, zone: ZoneInfo) -> datetime:
    return when if isinstance(when, datetime) else datetime(*when.timetuple()[:3], tzinfo=zone)
