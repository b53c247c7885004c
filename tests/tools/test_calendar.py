"""The tools for calendars, events and tasks."""

from __future__ import annotations

import re

import pytest

from nextcloud_mcp_server.tools.results import DATA
from tests.support.nextcloud.state import Collection, User, new_etag
from tests.tools.conftest import Assistant

_INVITED = """BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//test//EN
BEGIN:VEVENT
UID:1
DTSTAMP:20261101T000000Z
DTSTART:20261201T090000Z
DTEND:20261201T100000Z
SUMMARY:Review
ORGANIZER:mailto:alice@example.com
ATTENDEE:mailto:bob@example.com
ATTENDEE:MAILTO:carol@example.com
END:VEVENT
END:VCALENDAR
"""


def _stored(user: User, calendar: str = "personal") -> str:
    [(text, _)] = user.calendars[calendar].objects.values()
    return text


async def test_calendars_are_listed_with_what_they_take(assistant: Assistant, alice: User) -> None:
    """The calendar of a new user takes no tasks."""
    alice.calendars["team"] = Collection("Team", ("VEVENT", "VTODO"), read_only=True)
    assert (await assistant.call("calendar_list"))["items"] == [
        {"id": "personal", "name": "Personal", "events": True, "tasks": False, "writable": True},
        {"id": "team", "name": "Team", "events": True, "tasks": True, "writable": False},
    ]


async def test_an_event_is_created_in_the_zone_of_the_person(
    assistant: Assistant, alice: User
) -> None:
    """A time without an offset is one of the person's zone, and VTIMEZONE is stored."""
    made = await assistant.call(
        "event_write", calendar="personal", title="Review", start="2026-12-01T09:00",
        rule="FREQ=WEEKLY;COUNT=3", location="Room 1",
    )  # fmt: skip
    assert (made["start"], made["zone"]) == ("2026-12-01T09:00:00+01:00", "Europe/Berlin")
    assert made["end"] == "2026-12-01T10:00:00+01:00"
    assert (made["rule"], made["warning"]) == ("FREQ=WEEKLY;COUNT=3", "")
    text = _stored(alice)
    assert "BEGIN:VTIMEZONE" in text
    assert "DTSTART;TZID=Europe/Berlin:20261201T090000" in text


async def test_an_offset_and_a_zone_are_respected(assistant: Assistant, alice: User) -> None:
    """09:00Z is 10:00 in Berlin, and 04:00 in New York if that zone is given.

    It is stored in the zone, not in UTC: a series keeps its hour when the clocks change.
    """
    given = {"calendar": "personal", "title": "Call", "start": "2026-12-01T09:00Z"}
    berlin = await assistant.call("event_write", **given)
    assert berlin["start"] == "2026-12-01T10:00:00+01:00"
    assert "DTSTART;TZID=Europe/Berlin:20261201T100000" in _stored(alice)
    york = await assistant.call("event_write", **given, zone="America/New_York")
    assert (york["start"], york["zone"]) == ("2026-12-01T04:00:00-05:00", "America/New_York")


async def test_occurrences_are_listed_by_time(assistant: Assistant) -> None:
    """Each occurrence of a series is one item; the end date belongs to the range."""
    for title, start, rule in (
        ("Weekly", "2026-12-01T09:00", "FREQ=WEEKLY"),
        ("Day", "2026-12-08", ""),
    ):
        await assistant.call(
            "event_write", calendar="personal", title=title, start=start, rule=rule
        )
    found = await assistant.call("events_list", start="2026-12-01", end="2026-12-08")
    assert [(item["title"], item["start"], item["zone"]) for item in found["items"]] == [
        ("Weekly", "2026-12-01T09:00:00+01:00", "Europe/Berlin"),
        ("Day", "2026-12-08", ""),
        ("Weekly", "2026-12-08T09:00:00+01:00", "Europe/Berlin"),
    ]
    assert [item["recurring"] for item in found["items"]] == [True, False, True]
    assert found["items"][1]["end"] == "2026-12-09"


async def test_events_are_listed_in_pages(assistant: Assistant) -> None:
    """50 occurrences a page."""
    await assistant.call(
        "event_write", calendar="personal", title="Daily", start="2026-01-01", rule="FREQ=DAILY"
    )
    given = {"start": "2026-01-01", "end": "2026-02-28", "calendar": "personal"}
    first = await assistant.call("events_list", **given)
    second = await assistant.call("events_list", **given, cursor=first["next"])
    assert (len(first["items"]), len(second["items"]), second["next"]) == (50, 9, None)


async def test_the_next_week_is_listed_by_default(assistant: Assistant) -> None:
    """Without a range, there is nothing to give."""
    assert (await assistant.call("events_list"))["items"] == []


async def test_an_event_is_changed_with_its_etag(assistant: Assistant, alice: User) -> None:
    """A change leaves what is not given, and a new start keeps the duration."""
    made = await assistant.call(
        "event_write", calendar="personal", title="Review", start="2026-12-01T09:00",
        end="2026-12-01T09:30",
    )  # fmt: skip
    event = {"calendar": "personal", "id": made["id"]}
    assert "Read the event" in await assistant.error("event_write", **event, title="x")
    moved = await assistant.call(
        "event_write", **event, etag=made["etag"], start="2026-12-02T11:00"
    )
    assert (moved["title"], moved["end"]) == ("Review", "2026-12-02T11:30:00+01:00")
    assert "Somebody changed" in await assistant.error(
        "event_write", **event, etag=made["etag"], title="x"
    )
    read = await assistant.call("event_read", **event)
    assert (read["etag"], read["start"]) == (moved["etag"], moved["start"])
    assert "Somebody changed" in await assistant.error("event_delete", **event, etag=made["etag"])
    deleted = await assistant.call("event_delete", **event, etag=moved["etag"])
    assert (deleted["title"], alice.calendars["personal"].objects) == ("Review", {})
    assert "List or search first" in await assistant.error("event_read", **event)


@pytest.mark.parametrize("retention", [None, 0])
async def test_no_event_is_deleted_for_good(
    retention: int | None, assistant: Assistant, alice: User
) -> None:
    """Without a trash bin of the calendars, or if it is switched off, the event stays."""
    made = await assistant.call("event_write", calendar="personal", title="x", start="2026-12-01")
    event = {"calendar": "personal", "id": made["id"], "etag": made["etag"]}
    alice.calendar_retention = retention
    assert "nothing was deleted" in await assistant.error("event_delete", **event)
    assert len(alice.calendars["personal"].objects) == 1
    alice.calendar_retention = 1
    await assistant.call("event_delete", **event)
    assert alice.calendars["personal"].objects == {}


async def test_a_change_with_attendees_says_that_they_may_get_mail(
    assistant: Assistant, alice: User
) -> None:
    """The attendees are listed before, and the result of a change and a deletion warns."""
    alice.calendars["personal"].objects["1.ics"] = (_INVITED.replace("\n", "\r\n"), new_etag())
    [listed] = (await assistant.call("events_list", start="2026-12-01", end="2026-12-01"))["items"]
    assert listed["attendees"] == ["bob@example.com", "carol@example.com"]
    event = {"calendar": "personal", "id": "1.ics"}
    changed = await assistant.call("event_write", **event, etag=listed["etag"], title="Moved")
    assert "may have mailed them" in changed["warning"]
    deleted = await assistant.call("event_delete", **event, etag=changed["etag"])
    assert "may have mailed them" in deleted["warning"]


async def test_a_long_description_is_cut_in_a_list_and_whole_alone(assistant: Assistant) -> None:
    """A list of 50 does not overflow, and the end of the text says that it is cut."""
    made = await assistant.call(
        "event_write",
        calendar="personal",
        title="Long",
        start="2026-12-01",
        description="d" * 3_000,
    )
    [listed] = (await assistant.call("events_list", start="2026-12-01", end="2026-12-01"))["items"]
    assert listed["description"] == "d" * 1_000 + " [cut: 3000 characters]"
    read = await assistant.call("event_read", calendar="personal", id=made["id"])
    assert read["description"] == "d" * 3_000


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"title": "x"}, "needs a title and a start"),
        ({"start": "2026-12-01"}, "needs a title and a start"),
        ({"title": "x", "start": "tomorrow"}, "'tomorrow' is not a date or a time"),
        ({"title": "x", "start": "2026-12-01", "end": "2026-11-01"}, "ends before it begins"),
        ({"title": "x", "start": "2026-12-01", "rule": "often"}, "not a rule of iCalendar"),
        ({"title": "x", "start": "2026-12-01", "zone": "Mars/Base"}, "no time zone 'Mars/Base'"),
        ({"title": "x", "start": "2026-12-01", "zone": "../x"}, "no time zone"),
        ({"title": "x", "start": "2026-12-01", "calendar": "none"}, "Nextcloud has no"),
    ],
)
async def test_a_wrong_event_is_refused(
    arguments: dict[str, str], error: str, assistant: Assistant, alice: User
) -> None:
    """The error says what to give, and nothing is written."""
    assert error in await assistant.error("event_write", **{"calendar": "personal", **arguments})
    assert alice.calendars["personal"].objects == {}


async def test_a_range_must_not_end_before_it_begins(assistant: Assistant) -> None:
    """An end that is too late, or too early, is an error with a remedy."""
    error = await assistant.error("events_list", start="2026-12-02", end="2026-11-01")
    assert "a later end" in error
    error = await assistant.error("events_list", start="2026-12-02", end="9999-12-31")
    assert "Give a year from 2 to 9998" in error


async def test_an_unknown_zone_of_the_person_is_utc(assistant: Assistant, alice: User) -> None:
    """Nextcloud stores what a browser has told it."""
    alice.timezone = "Browser/Nowhere"
    made = await assistant.call(
        "event_write", calendar="personal", title="x", start="2026-12-01T09:00"
    )
    assert (made["start"], made["zone"]) == ("2026-12-01T09:00:00+00:00", "UTC")
    advice = (await assistant.call("whoami"))["advice"]
    assert advice.startswith("The time zone 'Browser/Nowhere' of Nextcloud is not known here")


async def test_a_person_without_a_zone_is_told(assistant: Assistant, alice: User) -> None:
    """A time without an offset is then one of UTC, which nobody would expect."""
    alice.timezone = ""
    assert (await assistant.call("whoami"))["advice"] == (
        "No time zone is set in Nextcloud: times without one are taken as UTC. Set it there, or "
        "pass `zone`."
    )


async def test_a_task_is_created_completed_and_listed(assistant: Assistant, alice: User) -> None:
    """Without a calendar for tasks one is created; a completed task is listed if asked for."""
    made = await assistant.call(
        "task_write", title="Pay", due="2026-12-24T18:00", priority=1, description="the rent"
    )
    assert (made["due"], made["zone"]) == ("2026-12-24T18:00:00+01:00", "Europe/Berlin")
    assert alice.calendars[made["calendar"]].components == ("VTODO",)
    assert re.search(r"DUE;TZID=Europe/Berlin:20261224T180000", _stored(alice, made["calendar"]))
    assert made["note"].startswith("No calendar took tasks: 'Tasks' was created. Data of ")
    later = await assistant.call("task_write", title="Later")
    assert later["note"] == DATA
    listed = (await assistant.call("tasks_list"))["items"]
    assert [task["title"] for task in listed] == ["Pay", "Later"]
    task = {"calendar": made["calendar"], "id": made["id"]}
    done = await assistant.call("task_write", **task, etag=made["etag"], completed=True)
    assert (done["completed"], done["percent"], done["description"]) == (True, 100, "the rent")
    assert [t["title"] for t in (await assistant.call("tasks_list"))["items"]] == ["Later"]
    assert len((await assistant.call("tasks_list", completed=True))["items"]) == 2
    error = await assistant.error("task_write", **task, etag=made["etag"], title="x")
    assert "Somebody changed" in error


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, "needs a title"),
        ({"id": "1.ics", "etag": "a"}, "List the tasks"),
        ({"id": "1.ics", "calendar": "personal"}, "List the tasks"),
        ({"title": "x", "completed": True}, "then complete it"),
        ({"title": "x", "priority": 10}, "1 is the highest"),
        ({"title": "x", "calendar": "personal"}, "only supports VEVENT"),
        ({"title": "x", "due": "soon"}, "not a date or a time"),
    ],
)
async def test_a_wrong_task_is_refused(
    arguments: dict[str, object], error: str, assistant: Assistant
) -> None:
    """The error says what to give."""
    assert error in await assistant.error("task_write", **arguments)


async def test_a_list_of_several_calendars_reports_progress(
    assistant: Assistant, alice: User
) -> None:
    """The client learns how many calendars are read."""
    alice.calendars["team"] = Collection("Team", ("VEVENT", "VTODO"))
    await assistant.call("events_list")
    await assistant.call("tasks_list")
    assert assistant.progress == [
        "0 of 2 calendars read", "1 of 2 calendars read", "0 of 1 calendars read"
    ]  # fmt: skip
