"""Odd values: what the assistant passes, and what other programs stored in Nextcloud."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from hypothesis import strategies as st
from mcp import Client

from nextcloud_mcp_server.nextcloud.connection import open_http
from nextcloud_mcp_server.tools.server import TOOLS
from tests.support.nextcloud.server import StandIn, running
from tests.support.nextcloud.state import Collection, Note, User, new_etag
from tests.tools import snapshot
from tests.tools.conftest import Assistant, account, server
from tests.tools.test_list import WRITES

if TYPE_CHECKING:
    from mcp_types import CallToolResult

ODD = ["\ud800", "a\x00", "\x0bb", "\x1b[0m", "\ufffe", "\uffff"]

SCHEMAS: dict[str, dict[str, Any]] = {
    tool["name"]: tool["inputSchema"] for tool in asyncio.run(snapshot.tools())
}

#: Each argument of a tool that is a text.
TEXTS = [
    (name, argument)
    for name, schema in SCHEMAS.items()
    for argument, kind in schema.get("properties", {}).items()
    if kind.get("type") == "string"
]


def _required(name: str) -> dict[str, Any]:
    schema = SCHEMAS[name]
    kinds = {one: schema["properties"][one]["type"] for one in schema.get("required", [])}
    return {one: 1 if kind == "integer" else "x" for one, kind in kinds.items()}


def _event(title: str, day: int, more: str = "") -> str:
    return (
        f"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//EN\r\nBEGIN:VEVENT\r\nUID:{title}\r\n"
        f"DTSTAMP:20261101T000000Z\r\nDTSTART:202612{day:02}T090000Z\r\n"
        f"DTEND:202612{day:02}T100000Z\r\nSUMMARY:{title}\r\n{more}END:VEVENT\r\nEND:VCALENDAR\r\n"
    )


def _store(collection: Collection, *texts: str) -> None:
    for number, text in enumerate(texts):
        collection.objects[f"{number}.ics"] = (text, new_etag())


@pytest.mark.parametrize(("name", "argument"), TEXTS)
async def test_a_character_that_nextcloud_cannot_store_is_refused(
    name: str, argument: str, assistant: Assistant, stand_in: StandIn
) -> None:
    """The error names the tool and the argument, and no request is sent."""
    for text in ODD:
        error = await assistant.error(name, **{**_required(name), argument: text})
        assert f"{name} was not called: {argument} has the character U+" in error
        assert error.isprintable()
    assert stand_in.state.seen == []


async def test_lines_and_tabs_are_text(assistant: Assistant, alice: User) -> None:
    """A tab, a newline and a carriage return are stored."""
    made = await assistant.call("notes_write", title="x", text="a\tb\r\nc\u2028d\x85e\x7f")
    assert alice.notes[made["id"]].content == "a\tb\r\nc\u2028d\x85e\x7f"


@pytest.mark.parametrize("text", ["null", "true", "[1]", '{"a": 1}', "9" * 5_000, "[" * 99_999])
async def test_a_text_that_is_json_stays_a_text(
    text: str, assistant: Assistant, alice: User
) -> None:
    """A note is written as it was given; `null` is not taken for a text that is left out."""
    made = await assistant.call("notes_write", title="x", text=text)
    assert alice.notes[made["id"]].content == text


async def test_the_name_of_a_tool_has_no_odd_character_in_the_error(assistant: Assistant) -> None:
    """The name of a tool and of an argument that do not exist are odd as well."""
    for name, given in (("\x00", {}), ("whoami", {"\ud800": "\ud800"})):
        error = await assistant.error(name, **given)
        assert error.isascii()
        assert error.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0001-01-01", "9999-12-31"),
        *("9999-12-31T23:59", "0001-01-01T00:00"),
    ],
)
async def test_a_time_out_of_range_is_refused(text: str, assistant: Assistant) -> None:
    """Years 2 to 9998 exist in every zone."""
    new = {"calendar": "personal", "title": "x"}
    for name, given in (
        ("events_list", {"start": text}),
        ("events_list", {"end": text}),
        ("event_write", {**new, "start": text}),
        ("event_write", {**new, "start": "2026-01-01T10:00", "end": text}),
        ("task_write", {"title": "x", "due": text}),
    ):
        assert "Give a year from 2 to 9998" in await assistant.error(name, **given)


async def test_the_longest_range_is_listed(assistant: Assistant) -> None:
    """The first and the last year of a range have four digits in the request."""
    for start, end in (("0002-01-01", "0003-12-31"), ("9997-01-01", "9998-12-31")):
        assert (await assistant.call("events_list", start=start, end=end))["items"] == []


async def test_a_new_start_that_moves_the_end_out_of_range_is_refused(
    assistant: Assistant, alice: User
) -> None:
    """An event of thousands of years keeps its duration, and then ends too late."""
    _store(alice.calendars["personal"], _event("x", 1).replace("DTEND:2026", "DTEND:9026"))
    read = await assistant.call("event_read", calendar="personal", id="0.ics")
    given = {"calendar": "personal", "id": "0.ics", "etag": read["etag"]}
    error = await assistant.error("event_write", **given, start="9000-01-01T09:00")
    assert "ends too late" in error


async def test_a_note_has_a_number(assistant: Assistant) -> None:
    """A number that no note can have is not found."""
    for number in (-1, 2**63, 10**400, 10**5_000):
        assert "no note with this number" in await assistant.error("notes_read", id=number)
        given = {"id": number, "etag": "a", "text": "x"}
        assert "no note with this number" in await assistant.error("notes_write", **given)


async def test_an_odd_event_does_not_hide_the_others(assistant: Assistant, alice: User) -> None:
    """Characters are replaced, and what cannot be read is left out; events and tasks alike."""
    alice.calendars["tasks"] = Collection("Tasks", ("VTODO",))
    late = "TZID=America/New_York:99991231T235959"
    texts = [
        _event("plain", 1),
        *(_event(f"odd{character}", 2) for character in "\x00\x0b\ufffe"),
        _event("reference&#11;", 2),
        _event("two", 2, "SUMMARY:titles\r\n"),
        _event("late", 2)
        .replace("DTSTART:20261202T090000Z", "DTSTART;TZID=America/New_York:20261202T090000")
        .replace("DTEND:20261202T100000Z", f"DTEND;{late}"),
        _event("late task", 2, f"DUE;{late}\r\n"),
        _event("first", 3).replace("DTSTART:2026", "DTSTART:0001").replace("DTEND:20", "DTEND:99"),
        _event("percent", 4, "PERCENT-COMPLETE:x\r\nPRIORITY:x\r\nSEQUENCE:x\r\n"),
        _event("twice", 4, "PERCENT-COMPLETE:1\r\nPERCENT-COMPLETE:2\r\n"),
        _event("no start", 5).replace("DTSTART", "X-START"),
        "BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nno event",
    ]
    _store(alice.calendars["personal"], *texts[:7])
    _store(alice.calendars["tasks"], *(text.replace("VEVENT", "VTODO") for text in texts))
    events = await assistant.call("events_list", start="2026-12-01", end="2026-12-31")
    titles = [item["title"] for item in events["items"]]
    assert titles == ["plain", "odd\ufffd", "odd\ufffd", "odd\ufffd", "reference&#11;", "two"]
    tasks = await assistant.call("tasks_list")
    assert {"plain", "odd\ufffd", "no start"} <= {item["title"] for item in tasks["items"]}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("DTSTART:20261201T", "DTSTART:00010101T"),
        ("DTEND:20261201T100000Z", "DTEND;TZID=America/New_York:99991231T235959"),
        ("DTEND:20261201T100000Z", "DTEND:99991231T235959Z"),
        ("DTEND:20261201T100000Z", "DURATION:P9999999D"),
        ("DTEND:20261201T100000Z", "DTEND;VALUE=DATE:20261202"),
        ("SUMMARY:x", "RRULE:FREQ=x"),
        ("SUMMARY:x", "RRULE:FREQ=DAILY\r\nRRULE:FREQ=WEEKLY"),
        ("SUMMARY:x", "SEQUENCE:x"),
        ("DTSTART:20261201T090000Z", "DTSTART:x"),
        ("DTSTART:20261201T090000Z", "DTSTART;VALUE=TIME:090000"),
        ("SUMMARY:x", "RDATE;TZID=Europe/Berlin,Europe/Paris:20261203T090000"),
        ("DTSTART:20261201T090000Z", "DTSTART:20261201T090000Z\r\nDTSTART:20261201T090000Z"),
    ],
)
async def test_an_odd_event_can_be_read_or_is_refused(
    old: str, new: str, assistant: Assistant, alice: User
) -> None:
    """A read and a change of what another program stored have a result or an error of ours."""
    _store(alice.calendars["personal"], _event("x", 1).replace(old, new))
    event = {"calendar": "personal", "id": "0.ics"}
    objects = alice.calendars["personal"].objects
    etag = objects["0.ics"][1]
    for name, given in (
        ("event_read", {}),
        ("event_write", {"etag": etag, "title": "y"}),
        ("event_write", {"etag": etag, "end": "2026-12-03T10:00"}),
        ("event_write", {"etag": etag, "start": "2026-12-02T10:00"}),
        ("event_delete", {"etag": etag}),
    ):
        before = objects.get("0.ics")
        result = await assistant.result(name, **event, **given)
        _check(name, result)
        # What is refused has changed nothing.
        assert not result.is_error or objects.get("0.ics") == before


async def test_a_time_without_a_date_is_none(assistant: Assistant, alice: User) -> None:
    """An event without a start is refused, and a task is not due."""
    alice.calendars["tasks"] = Collection("Tasks", ("VTODO",))
    event = _event("x", 1).replace("DTSTART:20261201T090000Z", "DTSTART;VALUE=TIME:090000")
    _store(alice.calendars["personal"], event)
    task = _event("x", 1, "DUE;VALUE=TIME:090000\r\n").replace("VEVENT", "VTODO")
    _store(alice.calendars["tasks"], task)
    error = await assistant.error("event_read", calendar="personal", id="0.ics")
    assert "no start of the event" in error
    [found] = (await assistant.call("tasks_list"))["items"]
    assert found["due"] == ""


@pytest.mark.parametrize(
    "more",
    ["DUE:99991231T235959Z", "DUE:x", "DUE;VALUE=TIME:090000", "COMPLETED:x", "SUMMARY:y"],
)
async def test_an_odd_task_is_changed_or_is_refused(
    more: str, assistant: Assistant, alice: User
) -> None:
    """A change has a result, or an error of ours and nothing was written."""
    alice.calendars["tasks"] = Collection("Tasks", ("VTODO",))
    objects = alice.calendars["tasks"].objects
    for given in ({"title": "z"}, {"completed": True}, {"due": "2026-12-02T10:00"}):
        _store(alice.calendars["tasks"], _event("x", 1, f"{more}\r\n").replace("VEVENT", "VTODO"))
        before = objects["0.ics"]
        task = {"calendar": "tasks", "id": "0.ics", "etag": before[1]}
        result = await assistant.result("task_write", **task, **given)
        _check("task_write", result)
        assert not result.is_error or objects["0.ics"] == before


async def test_odd_notes_do_not_hide_the_others(assistant: Assistant, alice: User) -> None:
    """Half of a surrogate pair is replaced, and a time that no calendar has is the first one."""
    for number, title in enumerate(("plain", "\ud800", "\x00\x0b"), 1):
        alice.notes[number] = Note(title, title, "", 10**18 if number == 2 else 1, new_etag())
    alice.notes[2**63] = Note("no number", "x", "", 1, new_etag())
    found = await assistant.call("notes_search")
    assert [item["title"] for item in found["items"]] == ["plain", "\ufffd", "\x00\x0b"]
    assert found["items"][1]["modified"] == "1970-01-01T00:00:00Z"
    assert (await assistant.call("notes_read", id=2))["text"] == "\ufffd"


async def test_an_odd_name_of_a_file_does_not_hide_the_others(
    assistant: Assistant, stand_in: StandIn
) -> None:
    """A file with a control character in its name is listed and found."""
    for name in ("plain.txt", "a\x0b.txt", "b\ufffe.txt"):
        stand_in.state.put_file("alice", name, b"")
    for name, given in (("files_list", {}), ("files_search", {"name": ".txt"})):
        found = await assistant.call(name, **given)
        assert {item["path"] for item in found["items"]} >= {"plain.txt", "a\x0b.txt"}
        assert len(found["items"]) == 3


async def test_odd_contacts_do_not_hide_the_others(assistant: Assistant, alice: User) -> None:
    """Characters are replaced, a line separator is no new line, and no line takes long."""
    card = "BEGIN:VCARD\r\nVERSION:3.0\r\nFN:{} Lovelace\r\n{}END:VCARD\r\n"
    long = "A" + ";" * 5_000
    _store(
        alice.books["contacts"],
        card.format("Ada", f"{long}\r\n"),
        card.format("Bo\x0b", ""),
        card.format("Cy", "NOTE:a\u2028EMAIL:b@example.com\r\n"),
    )
    begun = time.monotonic()
    found = await assistant.call("contacts_search", text="lovelace")
    assert [item["name"][:3] for item in found["items"]] == ["Ada", "Bo\ufffd", "Cy "]
    assert found["items"][2]["emails"] == []
    assert time.monotonic() - begun < 5


# Every tool with any value.

_TEXT = st.one_of(
    st.sampled_from(
        [
            *ODD,
            *("", "x", "personal", "tasks", "0.ics", "a.txt", "..", "a/../b", "/", "%2e", "\\"),
            *("2026-12-01", "2026-12-01T09:00", "20261201", "2026-W50-1", "24:00", "T", "²", "-1"),
            *("0001-01-01T00:00:00+14:00", "9998-12-31T23:59:59-23:59", "2026-02-30", "9" * 400),
            *("Europe/Berlin", "Europe", "../etc/passwd", "FREQ=DAILY"),
            "FREQ=DAILY;UNTIL=00010101",
            *("FREQ=DAILY;BYDAY=", "FREQ=;", "=", ";", "null", "[]", "{}", "a\r\nX:y", "5:", "0:x"),
        ]
    ),
    st.text(max_size=20),
    st.datetimes().map(str),
    st.from_regex(r"FREQ=[A-Z]+(;[A-Z]+=[-+0-9A-Z,]+){0,3}", fullmatch=True),
)  # fmt: skip
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": _TEXT,
    "integer": st.one_of(st.integers(), st.sampled_from([1, 2**63, 10**5_000]), _TEXT, st.floats()),
    "boolean": st.one_of(st.booleans(), _TEXT, st.integers()),
}
_ANY = st.one_of(st.none(), st.floats(), st.lists(_TEXT, max_size=2), st.binary().map(str))


@st.composite
def _calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    name = draw(st.sampled_from(sorted(SCHEMAS)))
    schema = SCHEMAS[name]
    given: dict[str, Any] = {}
    for argument, kind in schema.get("properties", {}).items():
        needed = argument in schema.get("required", ())
        if needed or draw(st.booleans()):
            odd = draw(st.integers(0, 9)) == 0
            given[argument] = draw(_ANY if odd else _VALUES[kind["type"]])
    return name, given


def _check(name: str, result: CallToolResult) -> None:
    """Check that a call has a result, or an error with a text of ours."""
    if not result.is_error:
        assert isinstance(result.structured_content, dict)
        return
    [content] = result.content
    assert content.type == "text"
    content.text.encode()
    assert content.text.removeprefix(f"Error executing tool {name}").strip(": ")


@pytest.fixture(scope="module")
def filled() -> Iterator[StandIn]:
    """A Nextcloud that has something of everything, also odd."""
    with running() as found:
        alice = found.state.users["alice"]
        found.state.put_file("alice", "a.txt", b"text")
        alice.notes[1] = Note("x", "text", "", 1, new_etag())
        alice.calendars["tasks"] = Collection("Tasks", ("VTODO",))
        _store(alice.calendars["personal"], _event("x", 1), _event("\x0b", 2))
        _store(alice.calendars["tasks"], _event("x", 1).replace("VEVENT", "VTODO"))
        _store(alice.books["contacts"], "BEGIN:VCARD\r\nFN:x\x0b\r\nEND:VCARD\r\n")
        yield found


@pytest.mark.parametrize("read_only", [False, True])
def test_any_value_has_a_result_or_an_error_of_ours(
    read_only: bool, filled: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    """No value of an argument makes a tool fail with an unexpected exception."""
    assert {tool.name for tool in TOOLS} == set(SCHEMAS)
    with asyncio.Runner() as runner:
        http = open_http()
        mcp = server(account(filled, read_only=read_only), http)

        async def called(name: str, arguments: dict[str, Any]) -> CallToolResult:
            async with Client(mcp, mode="legacy") as client:
                return await client.call_tool(name, arguments)

        @hypothesis.settings(max_examples=60, deadline=None)
        @hypothesis.given(_calls())
        def each(call: tuple[str, dict[str, Any]]) -> None:
            name, arguments = call
            result = runner.run(called(name, arguments))
            _check(name, result)
            if read_only and name in WRITES:
                assert "READ_ONLY=true" in result.content[0].text  # type: ignore[union-attr]

        try:
            each()
        finally:
            runner.run(http.aclose())
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
