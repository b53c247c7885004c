"""The tools for calendars, events and tasks."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Final

from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from nextcloud_mcp_server.nextcloud.events import Event
from nextcloud_mcp_server.tools import times
from nextcloud_mcp_server.tools.declare import READS, Call, Cursor, Declared, Kind, tool
from nextcloud_mcp_server.tools.results import (
    CalendarItem,
    CalendarList,
    Deleted,
    EventList,
    EventResult,
    TaskList,
    TaskResult,
    event_item,
    event_result,
    task_item,
    task_result,
)

When = Annotated[str | None, Field(description="2026-11-30T09:00, or a date for whole days")]
Zone = Annotated[str | None, Field(description="Like Europe/Berlin; default: the person's")]
Etag = Annotated[str | None, Field(description="With id: that of the version read")]

_INVITED: Final = "This event has attendees: Nextcloud may have mailed them."

#: Attendees get a mail, in any mail system.
_WRITES: Final = Kind(destroys=True, outside=True)


@tool("List calendars", "calendar:read", READS)
async def calendar_list(call: Call) -> CalendarList:
    """List the calendars, and whether each takes events, tasks and changes."""
    return CalendarList(
        items=[
            CalendarItem(
                id=calendar.id,
                name=calendar.name,
                events="VEVENT" in calendar.components,
                tasks="VTODO" in calendar.components,
                writable=calendar.writable,
            )
            for calendar in await call.person.nextcloud.calendars.list()
        ]
    )


@tool("List events", "calendar:read", READS)
async def events_list(
    call: Call,
    *,
    start: Annotated[str | None, Field(description="Date or time; default: now")] = None,
    end: Annotated[
        str | None, Field(description="Date (included) or time; default: a week")
    ] = None,
    calendar: Annotated[str | None, Field(description="An id; default: all")] = None,
    zone: Zone = None,
    cursor: Cursor = None,
) -> EventList:
    """List the events in a range, each occurrence of a series, by time, 50 a page."""
    nextcloud = call.person.nextcloud
    used = await times.zone_of(nextcloud, zone)
    first = times.beginning(start, used) if start else datetime.now(used).replace(microsecond=0)
    last = times.end(end, used) if end else first + timedelta(days=7)
    page = await nextcloud.events.list(
        first, last, zone=used, calendar=calendar, cursor=cursor, progress=call.calendars
    )
    return EventList(items=[event_item(event) for event in page.items], next=page.next)


@tool("Read an event", "calendar:read", READS)
async def event_read(call: Call, calendar: str, id: str, zone: Zone = None) -> EventResult:
    """Read one event as it is stored: its rule, attendees and whole description."""
    used = await times.zone_of(call.person.nextcloud, zone)
    return event_result(await call.person.nextcloud.events.read(calendar, id, zone=used))


@tool("Write an event", "calendar:write", _WRITES)
async def event_write(
    call: Call,
    *,
    calendar: str,
    id: Annotated[str | None, Field(description="To change an event")] = None,
    etag: Etag = None,
    title: str | None = None,
    start: When = None,
    end: Annotated[str | None, Field(description="For whole days: the day after the last")] = None,
    zone: Zone = None,
    location: str | None = None,
    description: str | None = None,
    rule: Annotated[
        str | None, Field(description="Like FREQ=WEEKLY;BYDAY=MO; empty ends it")
    ] = None,
) -> EventResult:
    """Create an event, or with id and etag change it, the whole series; what is not given stays.

    If it has attendees, Nextcloud may mail invitations to them: ask the person first.
    """
    nextcloud = call.person.nextcloud
    used = await times.zone_of(nextcloud, zone)
    begin, until = (times.when(text, used) if text else None for text in (start, end))
    if id is not None:
        if etag is None:
            raise ToolError("The etag is missing. Read the event, and pass the etag of the result.")
        event = await nextcloud.events.update(
            calendar, id, etag=etag, zone=used, title=title, start=begin, end=until,
            location=location, description=description, rule=rule,
        )  # fmt: skip
        return _written(event)
    if not title or begin is None:
        raise ToolError(
            "A new event needs a title and a start. To change an event, pass its id and etag."
        )
    if until is None:
        until = begin + (timedelta(hours=1) if isinstance(begin, datetime) else timedelta(days=1))
    event = await nextcloud.events.create(
        calendar, title=title, start=begin, end=until, zone=used,
        location=location or "", description=description or "", rule=rule or "",
    )  # fmt: skip
    return _written(event)


def _written(event: Event) -> EventResult:
    return event_result(event, _INVITED if event.attendees else "")


@tool("Delete an event", "calendar:write", Kind(destroys=True, repeatable=True, outside=True))
async def event_delete(call: Call, calendar: str, id: str, etag: str) -> Deleted:
    """Move an event, the whole series if it recurs, to the trash bin of the calendars.

    If it has attendees, Nextcloud may mail cancellations to them: ask the person first.
    """
    events = call.person.nextcloud.events
    event = await events.read(calendar, id, zone=await times.zone_of(call.person.nextcloud))
    await events.delete(calendar, id, etag=etag)
    return Deleted(id=id, title=event.title, warning=_INVITED if event.attendees else "")


@tool("List tasks", "calendar:read", READS)
async def tasks_list(
    call: Call,
    calendar: Annotated[str | None, Field(description="An id; default: all")] = None,
    completed: Annotated[bool, Field(description="Also completed tasks")] = False,
    zone: Zone = None,
    cursor: Cursor = None,
) -> TaskList:
    """List the tasks by due time, 50 a page."""
    nextcloud = call.person.nextcloud
    used = await times.zone_of(nextcloud, zone)
    page = await nextcloud.tasks.list(
        zone=used, calendar=calendar, completed=completed, cursor=cursor, progress=call.calendars
    )
    return TaskList(items=[task_item(task) for task in page.items], next=page.next)


@tool("Write a task", "calendar:write", Kind(destroys=True))
async def task_write(
    call: Call,
    *,
    calendar: Annotated[
        str | None, Field(description="Needed with id; default: one for tasks")
    ] = None,
    id: Annotated[str | None, Field(description="To change a task")] = None,
    etag: Etag = None,
    title: str | None = None,
    description: str | None = None,
    due: When = None,
    zone: Zone = None,
    priority: Annotated[int | None, Field(description="1 (highest) to 9, 0 for none")] = None,
    completed: bool | None = None,
) -> TaskResult:
    """Create a task, or with calendar, id and etag change, complete or reopen it.

    What is not given stays. If no calendar takes tasks, "Tasks" is created.
    """
    nextcloud = call.person.nextcloud
    used = await times.zone_of(nextcloud, zone)
    until = times.when(due, used) if due else None
    if id is not None:
        if etag is None or calendar is None:
            raise ToolError(
                "The calendar or the etag is missing. List the tasks, and pass those of the result."
            )
        changed = await nextcloud.tasks.update(
            calendar, id, etag=etag, zone=used, title=title, description=description, due=until,
            priority=priority, completed=completed,
        )  # fmt: skip
        return task_result(changed)
    if not title:
        raise ToolError("A new task needs a title. To change a task, pass its id and etag.")
    if completed:
        raise ToolError("A new task cannot be completed. Create it, then complete it.")
    created = await nextcloud.tasks.create(
        title=title, zone=used, calendar=calendar, description=description or "", due=until,
        priority=priority or 0,
    )  # fmt: skip
    return task_result(created)


TOOLS: Final[tuple[Declared, ...]] = (
    calendar_list, events_list, event_read, event_write, event_delete, tasks_list, task_write,
)  # fmt: skip
