"""Tasks: the VTODO objects of the calendars that take them."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace as replaced
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import icalendar

from nextcloud_mcp_server.nextcloud import errors
from nextcloud_mcp_server.nextcloud.calendars import (
    UNREADABLE,
    Calendars,
    Stored,
    When,
    number_of,
    readable,
    replace,
    shown,
    storable,
    text_of,
    time_of,
)
from nextcloud_mcp_server.nextcloud.paging import Page, Progress, page

_LOWEST = 9


@dataclass(frozen=True)
class Task:
    """A task; ``priority`` is 1 (highest) to 9, or 0 for none.

    ``due`` is a time with a zone, or a date. ``created_calendar`` is the name of the calendar that
    was created for it, as there was none.
    """

    calendar: str
    id: str
    etag: str
    title: str
    description: str
    due: When | None
    completed: bool
    status: str
    percent: int
    priority: int
    created_calendar: str = ""


class Tasks:
    """The tasks of the account."""

    def __init__(self, calendars: Calendars) -> None:
        self._calendars = calendars

    async def list(
        self,
        *,
        zone: ZoneInfo,
        calendar: str | None = None,
        completed: bool = False,
        cursor: str | None = None,
        progress: Progress | None = None,
    ) -> Page[Task]:
        """Return the tasks by due time, those without one last; completed ones if asked for.

        ``progress`` receives how many of how many calendars are read.

        Raises:
            NextcloudError: ``not-found``, or the request failed.
        """
        found = []
        async for stored in self._calendars.find("VTODO", calendar, progress=progress):
            found += [task for task in _tasks(stored, zone) if completed or not task.completed]
        found.sort(key=_order)
        return page(found, cursor)

    async def create(
        self,
        *,
        title: str,
        zone: ZoneInfo,
        calendar: str | None = None,
        description: str = "",
        due: When | None = None,
        priority: int = 0,
    ) -> Task:
        """Create a task; without a calendar in the first that takes tasks, or a new one.

        Raises:
            NextcloudError: ``bad-input``, ``not-found``, ``forbidden``, or the request failed.
        """
        component = icalendar.Todo()
        component.add("STATUS", "NEEDS-ACTION")
        _set(component, title=title, description=description, due=due, priority=priority)
        target, made = (calendar, "") if calendar is not None else await self._calendars.for_tasks()
        task = _task(await self._calendars.create(target, component), component, zone)
        return replaced(task, created_calendar=made)

    async def update(
        self,
        calendar: str,
        task_id: str,
        *,
        etag: str,
        zone: ZoneInfo,
        title: str | None = None,
        description: str | None = None,
        due: When | None = None,
        priority: int | None = None,
        completed: bool | None = None,
    ) -> Task:
        """Change, complete or reopen a task; None leaves a part as it is.

        Raises:
            NextcloudError: ``changed``, ``bad-input``, ``not-found``, or the request failed.
        """
        stored = await self._calendars.get(calendar, task_id)
        if stored.etag != etag:
            raise errors.changed(f"task {task_id!r}")
        with readable(f"task {task_id!r}"):
            parts = stored.content.walk("VTODO")
            if not parts:
                raise errors.not_found(f"task {task_id!r}")
            component = parts[0]
            _set(component, title=title, description=description, due=due, priority=priority)
            if completed is not None:
                now = datetime.now(UTC).replace(microsecond=0)
                replace(component, "STATUS", "COMPLETED" if completed else "NEEDS-ACTION")
                replace(component, "COMPLETED", now if completed else None)
                replace(component, "PERCENT-COMPLETE", 100 if completed else None)
            # Before it is written.
            _task(stored, component, zone)
        return _task(await self._calendars.update(stored, component, etag), component, zone)


def _set(
    component: icalendar.Component,
    *,
    title: str | None,
    description: str | None,
    due: When | None,
    priority: int | None,
) -> None:
    if priority is not None and not 0 <= priority <= _LOWEST:
        raise errors.bad_input("The priority is not 0 to 9.", "1 is the highest, 0 is none.")
    if title is not None:
        replace(component, "SUMMARY", title)
    if description is not None:
        replace(component, "DESCRIPTION", description)
    if due is not None:
        replace(component, "DUE", storable(due))
        component.pop("DURATION", None)
    if priority is not None:
        replace(component, "PRIORITY", priority or None)


def _tasks(stored: Stored, zone: ZoneInfo) -> list[Task]:
    """Return the tasks of an object; none if it cannot be read."""
    try:
        tasks = [_task(stored, part, zone) for part in stored.content.walk("VTODO")]
        return sorted(tasks, key=_order)
    except UNREADABLE:
        return []


def _order(task: Task) -> tuple[bool, str, str, str]:
    return task.due is None, str(_utc(task.due)), task.title, task.id


def _task(stored: Stored, part: icalendar.Component, zone: ZoneInfo) -> Task:
    status = text_of(part, "STATUS")
    return Task(
        calendar=stored.calendar,
        id=stored.id,
        etag=stored.etag,
        title=text_of(part, "SUMMARY"),
        description=text_of(part, "DESCRIPTION"),
        due=shown(time_of(part, "DUE"), zone),
        completed=status == "COMPLETED" or "COMPLETED" in part,
        status=status,
        percent=number_of(part, "PERCENT-COMPLETE"),
        priority=number_of(part, "PRIORITY"),
    )


def _utc(when: When | None) -> When | None:
    return when.astimezone(UTC) if isinstance(when, datetime) else when
