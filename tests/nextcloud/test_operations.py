"""What the stand-in lets a test see or arrange, beyond what holds for every Nextcloud."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta, timezone
from typing import TYPE_CHECKING
from unicodedata import normalize
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextcloud_mcp_server.nextcloud import dav
from nextcloud_mcp_server.nextcloud.addresses import Server
from nextcloud_mcp_server.nextcloud.calendars import When
from nextcloud_mcp_server.nextcloud.client import Nextcloud
from nextcloud_mcp_server.nextcloud.connection import bare_etag, if_match, open_http
from nextcloud_mcp_server.nextcloud.errors import NextcloudError
from nextcloud_mcp_server.nextcloud.files import _PAGE, _decoded
from nextcloud_mcp_server.nextcloud.login_flow import begin_login, poll_login
from nextcloud_mcp_server.nextcloud.paging import CHARACTERS, ITEMS, offset_of, page, text_page
from tests.nextcloud.conftest import AGENT, connect
from tests.nextcloud.test_addresses import GOOD
from tests.nextcloud.test_any_nextcloud import refused
from tests.support.nextcloud.server import StandIn, running
from tests.support.nextcloud.state import Note

if TYPE_CHECKING:
    import httpx2

BERLIN = ZoneInfo("Europe/Berlin")
START = datetime(2026, 3, 24, 10, tzinfo=BERLIN)
HOUR = timedelta(hours=1)


# Login.


async def test_a_login_is_granted_once(stand_in: StandIn, http: httpx2.AsyncClient) -> None:
    """The granted password works, is given out once, and has our name in Nextcloud."""
    server = Server.parse(stand_in.url)
    started = await begin_login(http, server, AGENT)
    assert await poll_login(http, server, AGENT, started.poll_token) is None
    stand_in.state.grant(started.login_url, "alice")
    granted = await poll_login(http, server, AGENT, started.poll_token)
    assert granted is not None
    assert granted.login_name == "alice@example.com"
    assert await poll_login(http, server, AGENT, started.poll_token) is None
    client = connect(stand_in, http, "alice", granted.app_password)
    assert (await client.account.whoami()).id == "alice"
    assert stand_in.state.users["alice"].app_passwords == {granted.app_password: AGENT}
    assert granted.app_password not in repr(granted)
    assert started.poll_token not in repr(started)


@pytest.mark.parametrize("prefix", ["", "/cloud"])
async def test_a_browser_gets_the_public_address(prefix: str) -> None:
    """The link has the host of the browser; polls go to the configured host."""
    with running(prefix=prefix) as stand_in:
        async with open_http() as http:
            server = Server.parse(stand_in.url)
            browser = Server.parse("https://cloud.example.com/nextcloud")
            started = await begin_login(http, server, AGENT, browser=browser)
            address = "https://cloud.example.com/nextcloud/index.php/login/v2/flow/"
            assert started.login_url.startswith(address)
            stand_in.state.grant(started.login_url, "bob")
            assert await poll_login(http, server, AGENT, started.poll_token) is not None


async def test_a_nextcloud_in_a_folder() -> None:
    """Files, notes, calendars and moves work below a path of the host."""
    with running(prefix="/cloud") as stand_in:
        async with open_http() as http:
            alice = connect(stand_in, http, "alice")
            await alice.files.write("a b/c.txt", "text")
            await alice.files.move("a b/c.txt", "d.txt")
            entries = (await alice.files.list()).items
            assert [entry.path for entry in entries] == ["a b", "d.txt"]
            assert [calendar.id for calendar in await alice.calendars.list()] == ["personal"]
            assert (await alice.notes.create("Title", "text")).title == "Title"


async def test_the_name_of_this_server_is_sent(stand_in: StandIn, alice: Nextcloud) -> None:
    """Every request has the User-Agent, and the user id and not the login name in its path."""
    await alice.files.list()
    assert {seen.headers["user-agent"] for seen in stand_in.state.seen} == {AGENT}
    assert stand_in.state.seen[-1].path == "/remote.php/dav/files/alice"


async def test_an_account_without_a_quota(stand_in: StandIn, alice: Nextcloud) -> None:
    """Negative numbers of Nextcloud mean that there is no limit."""
    stand_in.state.put_file("alice", "a.txt", b"four")
    user = await alice.account.whoami()
    assert (user.quota, user.used, user.timezone) == (None, 4, "Europe/Berlin")
    assert (user.display_name, user.language) == ("Alice", "en")


# Pages.


@given(st.text())
def test_pages_of_a_text_join_to_it(text: str) -> None:
    """No character is lost or repeated between two pages."""
    text = (text or "x") * (CHARACTERS // max(len(text), 1) + 2)
    parts, cursor = [], None
    while True:
        part, cursor = text_page(text, cursor)
        parts.append(part)
        if cursor is None:
            break
    assert "".join(parts) == text
    assert all(len(part) == CHARACTERS for part in parts[:-1])


@given(st.text(st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"]), min_size=1))
def test_pages_of_bytes_join_to_the_text(text: str) -> None:
    """A page of a file may end inside a character, and the next one begins with it."""
    content = (text * (_PAGE // len(text.encode()) + 2)).encode()
    found, offset = "", 0
    while offset < len(content):
        part, used = _decoded(content[offset : offset + _PAGE], first=offset == 0)
        assert part is not None
        assert 0 < len(part) <= CHARACTERS
        found, offset = found + part, offset + used
    assert found.encode() == content


@given(st.binary())
def test_bytes_are_text_or_refused(content: bytes) -> None:
    """Any bytes are decoded completely, or are no text."""
    text, used = _decoded(content, first=False)
    assert (text is None) or (text.encode() == content and used == len(content))


@given(st.lists(st.integers(), max_size=3 * ITEMS))
def test_pages_of_a_list_join_to_it(items: list[int]) -> None:
    """No item is lost or repeated between two pages."""
    found: list[int] = []
    cursor = None
    while True:
        one = page(items, cursor)
        found += one.items
        if (cursor := one.next) is None:
            break
    assert found == items


@pytest.mark.parametrize("cursor", ["", "-1", "x", "1.5", "٣", "9" * 16])
def test_a_made_up_cursor_is_refused(cursor: str) -> None:
    """A cursor is a position, and nothing else."""
    with refused("bad-input"):
        offset_of(cursor)


@pytest.mark.parametrize("etag", ["", 'a"b', "a\r\nX-Header: 1", "a b", "ä"])
def test_an_etag_cannot_add_a_header(etag: str) -> None:
    """An etag has no quotes, spaces and line breaks."""
    with refused("bad-input"):
        if_match(etag)


def test_an_etag_has_no_quotes() -> None:
    """Quotes and the mark of a weak etag are removed, and quotes are sent."""
    assert bare_etag('W/"abc"') == bare_etag('"abc"') == "abc"
    assert if_match("abc") == {"If-Match": '"abc"'}


# Files.


def test_any_name_survives_the_stand_in(stand_in: StandIn) -> None:
    """A file of any name without control characters is written, listed and read."""

    async def trip(alice: Nextcloud, name: str) -> None:
        await alice.files.write(name, name)
        assert normalize("NFC", name) in [entry.name for entry in (await alice.files.list()).items]
        assert (await alice.files.read(name)).text == name.removeprefix("\ufeff")
        await alice.files.delete(name)

    with asyncio.Runner() as runner:
        http = open_http()
        alice = connect(stand_in, http, "alice")

        @settings(max_examples=30, deadline=None)
        @given(GOOD.filter(lambda name: min(name) >= " "))
        def every(name: str) -> None:
            runner.run(trip(alice, name))

        every()
        runner.run(http.aclose())


async def test_a_byte_order_mark_is_not_text(stand_in: StandIn, alice: Nextcloud) -> None:
    """A mark at the beginning is left out, and no other character."""
    stand_in.state.put_file("alice", "a.txt", "\ufeffa\ufeff".encode())
    assert (await alice.files.read("a.txt")).text == "a\ufeff"


async def test_a_file_in_another_encoding_is_refused(stand_in: StandIn, alice: Nextcloud) -> None:
    """Latin-1 is not decoded by guessing."""
    stand_in.state.put_file("alice", "a.txt", "Grüße".encode("latin-1"))
    with refused("not-text"):
        await alice.files.read("a.txt")


async def test_a_page_is_all_that_is_read(stand_in: StandIn, alice: Nextcloud) -> None:
    """A large file costs one page of bytes, wherever the page is."""
    stand_in.state.put_file("alice", "a.txt", b"x" * 10_000_000)
    read = await alice.files.read("a.txt")
    assert (len(read.text), read.size) == (CHARACTERS, 10_000_000)
    assert read.next == f"{CHARACTERS}:{read.etag}"
    assert stand_in.state.seen[-1].headers["range"] == f"bytes=0-{_PAGE - 1}"


async def test_a_deleted_folder_is_in_the_trash_bin(stand_in: StandIn, alice: Nextcloud) -> None:
    """A folder goes there with its files; the folder of all files never does."""
    stand_in.state.put_file("alice", "a/b.txt", b"b")
    await alice.files.delete("a")
    assert stand_in.state.users["alice"].trash == [("a",)]
    for call in (alice.files.delete(""), alice.files.move("/", "x"), alice.files.write("", "x")):
        with refused("bad-input"):
            await call


async def test_a_share_has_the_password(stand_in: StandIn, alice: Nextcloud) -> None:
    """A link is for reading only, and has the password that was given."""
    stand_in.state.put_file("alice", "a.txt", b"a")
    link = await alice.files.share("a.txt", password="link-password")
    [share] = stand_in.state.shares
    assert (share["share_type"], share["password"]) == (3, "link-password")
    assert link.path == "a.txt"
    assert link.expires is None


async def test_a_page_of_a_search_in_the_wrong_namespace(
    stand_in: StandIn, alice: Nextcloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: `firstresult` of another namespace gives the first page again."""
    for number in range(ITEMS + 1):
        stand_in.state.put_file("alice", f"a{number}.txt", b"")
    right = await alice.files.search("a", cursor=str(ITEMS))
    assert len(right.items) == 1
    wrong = dav._DECLARED.replace(dav.NAMESPACES["sd"], dav.NAMESPACES["nc"])
    monkeypatch.setattr(dav, "_DECLARED", wrong)
    assert len((await alice.files.search("a", cursor=str(ITEMS))).items) == ITEMS


# Notes.


async def test_a_search_of_notes_has_chunks(stand_in: StandIn, alice: Nextcloud) -> None:
    """Each chunk is searched, and a note that is listed with only its id is none."""
    for number in range(120):
        text = "needle" if number == 110 else "hay"
        stand_in.state.users["alice"].notes[number] = Note(f"{number}", text, "c", 1, f"e{number}")
    first = await alice.notes.search("needle")
    assert (first.items, first.next) == ((), "50")
    second = await alice.notes.search("needle", cursor=first.next)
    third = await alice.notes.search("needle", cursor=second.next)
    assert ([note.id for note in third.items], third.next) == ([110], None)
    assert len((await alice.notes.search()).items) == ITEMS


async def test_a_long_note_has_pages(alice: Nextcloud) -> None:
    """A note is read in pages of 20,000 characters."""
    note = await alice.notes.create("Long", "x" * (CHARACTERS + 1))
    first = await alice.notes.read(note.id)
    second = await alice.notes.read(note.id, cursor=first.next)
    assert (len(first.text), second.text, second.next) == (CHARACTERS, "x", None)


# Events.


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (START, START - HOUR),
        (START.replace(tzinfo=None), START),
        (START, START.replace(tzinfo=None) + HOUR),
        (START, date(2026, 3, 25)),
        (date(2026, 3, 24), date(2026, 3, 24)),
    ],
)
async def test_times_that_make_no_event(alice: Nextcloud, start: When, end: When) -> None:
    """An end before its start, a time without a zone, and a mix of kinds are refused."""
    with refused("bad-input"):
        await alice.events.create("personal", title="x", start=start, end=end, zone=BERLIN)


@pytest.mark.parametrize("rule", ["nonsense", "FREQ=SOMETIMES", "BYDAY=MO", "FREQ=DAILY\r\nX:1"])
async def test_a_rule_that_is_none(alice: Nextcloud, rule: str) -> None:
    """A rule that iCalendar does not have is refused before it is sent."""
    with refused("bad-input"):
        await alice.events.create(
            "personal", title="x", start=START, end=START + HOUR, zone=BERLIN, rule=rule
        )


async def test_text_cannot_add_a_property(stand_in: StandIn, alice: Nextcloud) -> None:
    """A line break in a title is part of the title."""
    title = "x\r\nATTENDEE:mailto:a@example.com\nEND:VEVENT"
    event = await alice.events.create(
        "personal", title=title, start=START, end=START + HOUR, zone=BERLIN
    )
    [(text, _)] = stand_in.state.users["alice"].calendars["personal"].objects.values()
    assert "\r\nATTENDEE" not in text
    read = await alice.events.read("personal", event.id, zone=BERLIN)
    assert read.title.replace("\r\n", "\n") == title.replace("\r\n", "\n")


async def test_an_offset_is_stored_in_utc(stand_in: StandIn, alice: Nextcloud) -> None:
    """An offset is no zone: it is stored in UTC, without VTIMEZONE, and shown in the person's."""
    start = datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    event = await alice.events.create(
        "personal", title="x", start=start, end=start + HOUR, zone=BERLIN
    )
    [(text, _)] = stand_in.state.users["alice"].calendars["personal"].objects.values()
    assert "DTSTART:20260701T070000Z" in text
    assert "VTIMEZONE" not in text
    read = await alice.events.read("personal", event.id, zone=BERLIN)
    assert read.start.isoformat() == "2026-07-01T09:00:00+02:00"


async def test_an_event_keeps_its_own_zone(alice: Nextcloud) -> None:
    """An event in London is read in London, in winter too."""
    start = datetime(2026, 1, 5, 9, tzinfo=ZoneInfo("Europe/London"))
    event = await alice.events.create(
        "personal", title="x", start=start, end=start + HOUR, zone=BERLIN
    )
    read = await alice.events.read("personal", event.id, zone=BERLIN)
    assert str(read.start.tzinfo) == "Europe/London"  # type: ignore[union-attr]
    listed = await alice.events.list(start - HOUR, start + HOUR, zone=BERLIN)
    assert [one.start.isoformat() for one in listed.items] == ["2026-01-05T10:00:00+01:00"]


CHANGED = """BEGIN:VCALENDAR\r
VERSION:2.0\r
PRODID:-//x//y//EN\r
BEGIN:VEVENT\r
UID:series\r
DTSTAMP:20260101T000000Z\r
DTSTART:20260302T100000Z\r
DURATION:PT1H\r
RRULE:FREQ=DAILY;COUNT=4\r
EXDATE:20260303T100000Z\r
SUMMARY:Daily\r
X-CUSTOM:kept\r
BEGIN:VALARM\r
ACTION:DISPLAY\r
DESCRIPTION:x\r
TRIGGER:-PT5M\r
END:VALARM\r
END:VEVENT\r
BEGIN:VEVENT\r
UID:series\r
DTSTAMP:20260101T000000Z\r
RECURRENCE-ID:20260304T100000Z\r
DTSTART:20260304T150000Z\r
DTEND:20260304T160000Z\r
SUMMARY:Moved\r
END:VEVENT\r
END:VCALENDAR\r
"""


async def test_a_series_with_changed_occurrences(stand_in: StandIn, alice: Nextcloud) -> None:
    """Changed and excluded occurrences are listed so and survive a change of the title."""
    objects = stand_in.state.users["alice"].calendars["personal"].objects
    objects["series.ics"] = (CHANGED, "e1")
    begin = datetime(2026, 3, 1, tzinfo=UTC)
    listed = (await alice.events.list(begin, begin + timedelta(days=10), zone=BERLIN)).items
    assert [(event.title, event.start.isoformat()) for event in listed] == [
        ("Daily", "2026-03-02T11:00:00+01:00"),
        ("Moved", "2026-03-04T16:00:00+01:00"),
        ("Daily", "2026-03-05T11:00:00+01:00"),
    ]
    for change in ({"start": START}, {"end": START}, {"rule": ""}):
        with refused("bad-input"):
            await alice.events.update("personal", "series.ics", etag="e1", zone=BERLIN, **change)
    event = await alice.events.update(
        "personal", "series.ics", etag="e1", zone=BERLIN, title="Renamed"
    )
    assert (event.title, event.rule) == ("Renamed", "FREQ=DAILY;COUNT=4")
    text = objects["series.ics"][0]
    for line in ("EXDATE:20260303T100000Z", "X-CUSTOM:kept", "BEGIN:VALARM", "SUMMARY:Moved"):
        assert line in text
    assert "SEQUENCE:1" in text


async def test_a_new_end_and_no_rule(alice: Nextcloud) -> None:
    """A new end keeps the start, and an empty rule ends the recurrence."""
    event = await alice.events.create(
        "personal", title="x", start=START, end=START + HOUR, zone=BERLIN, rule="FREQ=DAILY"
    )
    longer = await alice.events.update(
        "personal", event.id, etag=event.etag, zone=BERLIN, end=START + 3 * HOUR, rule=""
    )
    assert (longer.start, longer.end, longer.rule) == (START, START + 3 * HOUR, "")
    assert not longer.recurring
    with refused("bad-input"):
        await alice.events.update(
            "personal", event.id, etag=longer.etag, zone=BERLIN, start=date(2026, 4, 1)
        )


async def test_a_range_that_is_none(alice: Nextcloud) -> None:
    """A range without a zone, or that ends before it begins, is refused."""
    for start, end in ((START, START), (START.replace(tzinfo=None), START)):
        with refused("bad-input"):
            await alice.events.list(start, end, zone=BERLIN)


async def test_events_have_pages(alice: Nextcloud) -> None:
    """A long list has a cursor."""
    await alice.events.create(
        "personal", title="x", start=START, end=START + HOUR, zone=BERLIN, rule="FREQ=DAILY"
    )
    end = START + timedelta(days=60)
    first = await alice.events.list(START, end, zone=BERLIN)
    second = await alice.events.list(START, end, zone=BERLIN, cursor=first.next)
    assert (len(first.items), len(second.items), second.next) == (ITEMS, 10, None)


async def test_an_object_that_cannot_be_parsed_hides_no_other(
    stand_in: StandIn, alice: Nextcloud
) -> None:
    """A broken object is left out of a list."""
    await alice.tasks.create(title="good", zone=BERLIN)
    name = next(c.id for c in await alice.calendars.list() if "VTODO" in c.components)
    objects = stand_in.state.users["alice"].calendars[name].objects
    text = next(iter(objects.values()))[0]
    objects["broken.ics"] = (text.replace("END:VTODO\r\n", "").replace("END:VCALENDAR", ""), "e")
    assert [task.title for task in (await alice.tasks.list(zone=BERLIN)).items] == ["good"]


# Tasks.


async def test_a_task_calendar_is_created_once(stand_in: StandIn, alice: Nextcloud) -> None:
    """The second task goes to the calendar of the first."""
    first = await alice.tasks.create(title="a", zone=BERLIN)
    second = await alice.tasks.create(title="b", zone=BERLIN, due=date(2026, 1, 1))
    assert first.calendar == second.calendar
    assert len(stand_in.state.users["alice"].calendars) == 2
    listed = (await alice.tasks.list(zone=BERLIN)).items
    assert [(task.title, task.due) for task in listed] == [("b", date(2026, 1, 1)), ("a", None)]


async def test_a_task_is_reopened(alice: Nextcloud) -> None:
    """A reopened task has no time of completion."""
    task = await alice.tasks.create(title="a", zone=BERLIN, description="d")
    done = await alice.tasks.update(
        task.calendar, task.id, etag=task.etag, zone=BERLIN, completed=True
    )
    again = await alice.tasks.update(
        task.calendar, task.id, etag=done.etag, zone=BERLIN, completed=False, title="b", priority=9
    )
    assert (again.completed, again.status, again.percent) == (False, "NEEDS-ACTION", 0)
    assert (again.title, again.description, again.priority) == ("b", "d", 9)
    with refused("bad-input"):
        await alice.tasks.create(title="a", zone=BERLIN, priority=10)


# Contacts.


async def test_generated_books_are_not_searched(stand_in: StandIn, alice: Nextcloud) -> None:
    """The book of all accounts is left out; others have pages."""
    books = stand_in.state.users["alice"].books
    card = "BEGIN:VCARD\r\nVERSION:3.0\r\nUID:{0}\r\nFN:Person {0:03}\r\nEND:VCARD\r\n"
    books["z-server-generated--system"].objects["x.vcf"] = (card.format(999), "e")
    for number in range(ITEMS + 2):
        books["contacts"].objects[f"{number}.vcf"] = (card.format(number), "e")
    first = await alice.contacts.search("person")
    second = await alice.contacts.search("person", cursor=first.next)
    names = [contact.name for contact in (*first.items, *second.items)]
    assert names == [f"Person {number:03}" for number in range(ITEMS + 2)]
    assert second.next is None


async def test_empty_searches(alice: Nextcloud) -> None:
    """A search for nothing is refused."""
    for call in (alice.files.search(" "), alice.contacts.search("")):
        with pytest.raises(NextcloudError, match="empty"):
            await call


async def test_markup_in_a_search_is_text(stand_in: StandIn, alice: Nextcloud) -> None:
    """Angle brackets, quotes and control characters are looked for as they are."""
    stand_in.state.put_file("alice", "a<b>&'\".txt", b"")
    assert len((await alice.files.search("a<b>&'\"")).items) == 1
    assert (await alice.files.search("</d:literal>")).items == ()
    assert (await alice.contacts.search("\x01</card:text-match>")).items == ()
