"""What holds for every Nextcloud: the stand-in, and a real one where the environment names it.

``NEXTCLOUD_TEST_URL``, ``NEXTCLOUD_TEST_LOGIN`` and ``NEXTCLOUD_TEST_PASSWORD`` (an app password
of an account for tests, which is written to) run the same assertions against a real Nextcloud.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from datetime import date, datetime, timedelta
from uuid import uuid4
from zoneinfo import ZoneInfo

import httpx2
import pytest

from nextcloud_mcp_server.nextcloud.addresses import DAV, Server, quoted
from nextcloud_mcp_server.nextcloud.client import Nextcloud
from nextcloud_mcp_server.nextcloud.connection import open_http
from nextcloud_mcp_server.nextcloud.errors import NextcloudError
from nextcloud_mcp_server.nextcloud.login_flow import begin_login, poll_login
from nextcloud_mcp_server.nextcloud.paging import ITEMS
from tests.nextcloud.conftest import AGENT
from tests.support.nextcloud.server import running

BERLIN = ZoneInfo("Europe/Berlin")

#: The address, the login name and the app password.
Place = tuple[str, str, str]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """The Nextcloud to test."""
    with ExitStack() as stack:
        if url := os.environ.get("NEXTCLOUD_TEST_URL"):
            names = ("NEXTCLOUD_TEST_LOGIN", "NEXTCLOUD_TEST_PASSWORD")
            login, password = (os.environ[name] for name in names)
        else:
            found = stack.enter_context(running())
            url, login = found.url, found.state.users["alice"].login_name
            password = found.state.app_password("alice")
        yield url, login, password


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Nextcloud]:
    """The account to test."""
    url, login, password = place
    async with open_http() as http:
        yield Nextcloud(
            http, Server.parse(url), login_name=login, app_password=password, user_agent=AGENT
        )


@pytest.fixture
async def folder(client: Nextcloud) -> AsyncIterator[str]:
    """A new folder, which is deleted at the end."""
    name = await client.files.make_folder(f"test {uuid4().hex}")
    yield name
    await client.files.delete(name)


def refused(code: str) -> pytest.RaisesExc[NextcloudError]:
    """Expect an error with a code."""
    return pytest.RaisesExc(NextcloudError, check=lambda error: error.code == code)


async def test_the_account_has_an_id_and_a_quota(client: Nextcloud) -> None:
    """The user has an id, and no negative quota."""
    user = await client.account.whoami()
    assert user.id
    assert user.quota is None or user.quota > 0
    assert user.used >= 0
    assert (await client.account.capabilities()).version


NAMES = [
    "plain.txt", "two words.txt", "100% (50%25).txt", "a#b.txt", "a?b=c&d.txt", "a+b.txt",
    "Grüße.txt", "日本語.txt", "🔑.txt", "it's, [ok]; @home!.txt", "%2e%2e.txt",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_survives(client: Nextcloud, folder: str, name: str) -> None:
    """A file is written, listed, found, read and moved under exactly its name."""
    path = f"{folder}/{name}"
    written = await client.files.write(path, "content")
    assert [entry.path for entry in (await client.files.list(folder)).items] == [path]
    assert path in [entry.path for entry in (await client.files.search(name)).items]
    read = await client.files.read(path)
    assert (read.path, read.text, read.etag) == (path, "content", written.etag)
    assert await client.files.move(path, f"{folder}/sub/{name}") == f"{folder}/sub/{name}"
    assert (await client.files.stat(f"{folder}/sub/{name}")).name == name


async def test_a_name_is_stored_composed(client: Nextcloud, folder: str) -> None:
    """Letters with separate accents are stored as one character, and found in either form."""
    composed, separate = "\u00e9.txt", "e\u0301.txt"
    written = await client.files.write(f"{folder}/{separate}", "content")
    assert written.path == f"{folder}/{composed}"
    for name in (composed, separate):
        assert f"{folder}/{composed}" in [e.path for e in (await client.files.search(name)).items]
    assert await client.files.move(f"{folder}/{separate}", f"{folder}/2{separate}") == (
        f"{folder}/2{composed}"
    )
    assert [entry.name for entry in (await client.files.list(folder)).items] == [f"2{composed}"]


@pytest.mark.parametrize("name", ["two\nlines.txt", "a\tb.txt", "a\x01b"])
async def test_a_name_that_nextcloud_refuses(client: Nextcloud, folder: str, name: str) -> None:
    """Control characters in a name of a file, a folder or a target are an error of the caller."""
    await client.files.write(f"{folder}/a.txt", "content")
    for call in (
        client.files.write(f"{folder}/{name}", "content"),
        client.files.make_folder(f"{folder}/{name}"),
        client.files.move(f"{folder}/a.txt", f"{folder}/{name}"),
    ):
        with refused("bad-input"):
            await call


async def test_a_write_needs_the_etag_of_what_is_there(client: Nextcloud, folder: str) -> None:
    """Without an etag nothing is overwritten, with a stale one neither."""
    path = f"{folder}/note.txt"
    first = await client.files.write(path, "one")
    with refused("exists"):
        await client.files.write(path, "two")
    second = await client.files.write(path, "two", etag=first.etag)
    assert second.etag != first.etag
    with refused("changed"):
        await client.files.write(path, "three", etag=first.etag)
    assert (await client.files.read(path)).text == "two"


async def test_parents_are_created(client: Nextcloud, folder: str) -> None:
    """A file in folders that do not exist creates them; a file is no folder."""
    await client.files.write(f"{folder}/a/b/c.txt", "deep")
    assert (await client.files.stat(f"{folder}/a/b")).is_folder
    assert await client.files.make_folder(f"{folder}/a/b") == f"{folder}/a/b"
    with refused("exists"):
        await client.files.write(f"{folder}/a/b/c.txt/d.txt", "deeper")


async def test_a_move_overwrites_nothing(client: Nextcloud, folder: str) -> None:
    """A target that exists is refused, and both files stay."""
    await client.files.write(f"{folder}/a.txt", "a")
    await client.files.write(f"{folder}/b.txt", "b")
    with refused("exists"):
        await client.files.move(f"{folder}/a.txt", f"{folder}/b.txt")
    assert (await client.files.read(f"{folder}/b.txt")).text == "b"
    with refused("not-found"):
        await client.files.move(f"{folder}/no.txt", f"{folder}/c.txt")


async def test_a_deleted_file_is_gone(client: Nextcloud, folder: str) -> None:
    """A stale etag deletes nothing; after a deletion the file is not found."""
    written = await client.files.write(f"{folder}/a.txt", "a")
    with refused("changed"):
        await client.files.delete(f"{folder}/a.txt", etag="0" * 32)
    await client.files.delete(f"{folder}/a.txt", etag=written.etag)
    with refused("not-found"):
        await client.files.read(f"{folder}/a.txt")


async def test_a_folder_is_deleted_over_its_newest_version(client: Nextcloud, folder: str) -> None:
    """With its etag it goes with everything in it, although Nextcloud compares none of folders."""
    await client.files.write(f"{folder}/sub/a.txt", "a")
    old = await client.files.stat(f"{folder}/sub")
    await client.files.write(f"{folder}/sub/b.txt", "b")
    with refused("changed"):
        await client.files.delete(f"{folder}/sub", etag=old.etag)
    [listed] = (await client.files.list(folder)).items
    await client.files.delete(f"{folder}/sub", etag=listed.etag)
    with refused("not-found"):
        await client.files.list(f"{folder}/sub")
    with refused("not-found"):
        await client.files.delete(f"{folder}/sub", etag=listed.etag)


async def test_a_text_is_read_in_pages_of_one_version(client: Nextcloud, folder: str) -> None:
    """Pages join to the text, and a change between two pages is an error."""
    text = "".join(f"{number} Zeile mit Grüßen 🔑\n" for number in range(2_000))
    written = await client.files.write(f"{folder}/long.txt", text)
    pages, cursor = [], None
    while True:
        read = await client.files.read(f"{folder}/long.txt", cursor=cursor)
        pages.append(read.text)
        cursor, last = read.next, cursor
        if cursor is None:
            break
    assert len(pages) > 1
    assert "".join(pages) == text
    await client.files.write(f"{folder}/long.txt", "short", etag=written.etag)
    with refused("changed"):
        await client.files.read(f"{folder}/long.txt", cursor=last)


async def test_binaries_are_refused(client: Nextcloud, folder: str) -> None:
    """A NUL is no text, an empty file is."""
    await client.files.write(f"{folder}/a.bin", "a\0b")
    with refused("not-text"):
        await client.files.read(f"{folder}/a.bin")
    await client.files.write(f"{folder}/empty.txt", "")
    assert (await client.files.read(f"{folder}/empty.txt")).text == ""


async def test_a_search_has_pages(client: Nextcloud, folder: str) -> None:
    """Pages of a search neither repeat nor lose a file; % and _ are characters."""
    mark = uuid4().hex[:8]
    for number in range(ITEMS + 3):
        await client.files.write(f"{folder}/{mark}_{number:03}.txt", str(number))
    first = await client.files.search(f"{mark}_")
    second = await client.files.search(f"{mark}_", cursor=first.next)
    names = {entry.name for entry in (*first.items, *second.items)}
    assert (len(first.items), len(second.items), second.next) == (ITEMS, 3, None)
    assert names == {f"{mark}_{number:03}.txt" for number in range(ITEMS + 3)}
    assert (await client.files.search(f"{mark}%")).items == ()
    listed = await client.files.list(folder)
    assert (len(listed.items), listed.next) == (ITEMS, str(ITEMS))
    assert len((await client.files.list(folder, cursor=listed.next)).items) == 3


async def test_a_folder_is_listed_with_folders_first(client: Nextcloud, folder: str) -> None:
    """Entries have kind, size, etag and time; a file cannot be listed."""
    await client.files.write(f"{folder}/a.txt", "four")
    await client.files.make_folder(f"{folder}/z")
    entries = (await client.files.list(f"/{folder}/")).items
    assert [(entry.name, entry.is_folder) for entry in entries] == [("z", True), ("a.txt", False)]
    assert entries[1].size == 4
    assert entries[1].mime == "text/plain"
    assert entries[1].modified is not None
    assert all(entry.etag and entry.id for entry in entries)
    with refused("bad-input"):
        await client.files.list(f"{folder}/a.txt")


async def test_a_link_is_created(client: Nextcloud, folder: str) -> None:
    """A public link has a URL, and ends on the day that was asked for."""
    await client.files.write(f"{folder}/a.txt", "four")
    day = date.today() + timedelta(days=7)  # noqa: DTZ011 - a day that is far enough
    link = await client.files.share(f"{folder}/a.txt", expires=day)
    assert "/s/" in link.url
    assert link.expires == day.isoformat()
    with refused("not-found"):
        await client.files.share(f"{folder}/no.txt")
    with refused("forbidden"):
        await client.files.share(f"{folder}/a.txt", expires=date(2020, 1, 31))


async def test_notes(client: Nextcloud) -> None:
    """A note is created, found by its text, and changed only over its newest version."""
    if not (await client.account.capabilities()).notes:
        pytest.skip("this Nextcloud has no app Notes")
    mark = uuid4().hex
    note = await client.notes.create(f"Title {mark}", f"Text {mark}", category="test")
    read = await client.notes.read(note.id)
    assert (read.text, read.note.title, read.next) == (f"Text {mark}", f"Title {mark}", None)
    found, cursor = [], None
    while True:
        page = await client.notes.search(mark.upper(), cursor=cursor)
        found += [item.id for item in page.items]
        if (cursor := page.next) is None:
            break
    assert found == [note.id]
    newer = await client.notes.update(note.id, etag=read.note.etag, text="changed")
    assert newer.etag != read.note.etag
    with refused("changed"):
        await client.notes.update(note.id, etag=read.note.etag, text="lost")
    assert (await client.notes.read(note.id)).text == "changed"
    with refused("not-found"):
        await client.notes.read(999_999_999)


async def test_calendars_have_their_components(client: Nextcloud) -> None:
    """The default calendar takes events; inbox, outbox and trash bin are not listed."""
    calendars = await client.calendars.list()
    [personal] = [calendar for calendar in calendars if calendar.id == "personal"]
    assert "VEVENT" in personal.components
    assert personal.writable
    assert {"inbox", "outbox", "trashbin"}.isdisjoint(calendar.id for calendar in calendars)


async def test_a_weekly_event_keeps_its_hour_in_summer(client: Nextcloud) -> None:
    """Occurrences are expanded, and at 10 o'clock before and after the clocks change."""
    title = f"Test {uuid4().hex}"
    start = datetime(2026, 3, 24, 10, tzinfo=BERLIN)
    event = await client.events.create(
        "personal", title=title, start=start, end=start + timedelta(hours=1), zone=BERLIN,
        location="Room, 1; second", description="Line\nline", rule="FREQ=WEEKLY;COUNT=3",
    )  # fmt: skip
    page = await client.events.list(
        start - timedelta(days=1), start + timedelta(days=30), zone=BERLIN, calendar="personal"
    )
    found = [one for one in page.items if one.title == title]
    assert [one.start.isoformat() for one in found] == [
        "2026-03-24T10:00:00+01:00", "2026-03-31T10:00:00+02:00", "2026-04-07T10:00:00+02:00",
    ]  # fmt: skip
    assert {(one.id, one.recurring, one.location) for one in found} == {
        (event.id, True, "Room, 1; second")
    }
    stored = await client.calendars.get("personal", event.id)
    [zone] = stored.content.walk("VTIMEZONE")
    assert zone["TZID"] == "Europe/Berlin"

    read = await client.events.read("personal", event.id, zone=BERLIN)
    assert (read.rule, read.description) == ("FREQ=WEEKLY;COUNT=3", "Line\nline")
    moved = await client.events.update(
        "personal", event.id, etag=read.etag, zone=BERLIN, start=start + timedelta(hours=2)
    )
    assert (moved.rule, moved.end) == ("FREQ=WEEKLY;COUNT=3", start + timedelta(hours=3))
    with refused("changed"):
        await client.events.update("personal", event.id, etag=read.etag, zone=BERLIN, title="x")
    with refused("changed"):
        await client.events.delete("personal", event.id, etag=read.etag)
    await client.events.delete("personal", event.id, etag=moved.etag)
    with refused("not-found"):
        await client.events.read("personal", event.id, zone=BERLIN)


async def test_an_event_of_whole_days(client: Nextcloud) -> None:
    """Dates stay dates."""
    title = f"Test {uuid4().hex}"
    day = date(2026, 5, 1)
    event = await client.events.create(
        "personal", title=title, start=day, end=day + timedelta(days=2), zone=BERLIN
    )
    begin = datetime(2026, 4, 30, tzinfo=BERLIN)
    page = await client.events.list(begin, begin + timedelta(days=5), zone=BERLIN)
    [found] = [one for one in page.items if one.title == title]
    assert (found.start, found.end, found.recurring) == (day, day + timedelta(days=2), False)
    await client.events.delete("personal", event.id, etag=event.etag)


@pytest.mark.parametrize(
    ("zone", "first", "last"),
    [
        ("Europe/Berlin", "2026-05-03T00:00", "2026-05-03T20:00"),
        ("America/Los_Angeles", "2026-05-03T18:00", "2026-05-03T20:00"),
        ("Pacific/Auckland", "2026-05-03T00:00", "2026-05-03T06:00"),
    ],
)
async def test_whole_days_are_those_of_the_person(
    client: Nextcloud, zone: str, first: str, last: str
) -> None:
    """Nextcloud takes a day as one in UTC; here it is one in the zone of the person."""
    own = ZoneInfo(zone)
    mark = uuid4().hex
    events = [
        await client.events.create(
            "personal", title=f"{day} {mark}", zone=own,
            start=date(2026, 5, day), end=date(2026, 5, day + 1),
        )
        for day in (2, 3, 4)
    ]  # fmt: skip
    page = await client.events.list(
        datetime.fromisoformat(first).replace(tzinfo=own),
        datetime.fromisoformat(last).replace(tzinfo=own),
        zone=own,
    )
    assert [event.title for event in page.items if mark in event.title] == [f"3 {mark}"]
    for event in events:
        await client.events.delete("personal", event.id, etag=event.etag)


async def test_tasks_get_a_calendar_that_takes_them(client: Nextcloud) -> None:
    """A task is refused by the default calendar, and stored in one for tasks."""
    with refused("forbidden"):
        await client.tasks.create(title="Test", zone=BERLIN, calendar="personal")
    due = datetime(2026, 6, 1, 12, tzinfo=BERLIN)
    task = await client.tasks.create(title="Test", zone=BERLIN, due=due, priority=1)
    assert task.calendar != "personal"
    listed = (await client.tasks.list(zone=BERLIN)).items
    [found] = [one for one in listed if one.id == task.id]
    assert (found.title, found.due, found.priority, found.etag) == ("Test", due, 1, task.etag)
    done = await client.tasks.update(
        task.calendar, task.id, etag=task.etag, zone=BERLIN, completed=True
    )
    assert (done.completed, done.percent) == (True, 100)
    assert task.id not in {one.id for one in (await client.tasks.list(zone=BERLIN)).items}
    everything = await client.tasks.list(zone=BERLIN, completed=True, calendar=task.calendar)
    assert task.id in {one.id for one in everything.items}
    with refused("changed"):
        await client.tasks.update(
            task.calendar, task.id, etag=task.etag, zone=BERLIN, completed=False
        )
    await client.calendars.delete(task.calendar, task.id, done.etag)


async def test_contacts_are_searched(client: Nextcloud) -> None:
    """A contact is found by name, mail address and company, not by its note."""
    mark = uuid4().hex
    card = (
        "BEGIN:VCARD\r\nVERSION:3.0\r\n"
        f"UID:{mark}\r\nFN:Zoë {mark}\r\nN:{mark};Zoë;;;\r\nORG:Firma {mark}\\, Ltd;Lab\r\n"
        f"item1.EMAIL;TYPE=WORK:{mark}@example.com\r\nTEL;TYPE=CELL:+49 30 1\r\n"
        "NOTE:only-here\\nsecond\r\nEND:VCARD\r\n"
    )
    user = await client.account.user()
    path = DAV + quoted("addressbooks", "users", user.id, "contacts", f"{mark}.vcf")
    headers = {"Content-Type": "text/vcard"}
    await client._connection.send("PUT", path, headers=headers, body=card.encode())
    for text in (f"zoë {mark[:9]}", f"{mark}@example", f"Firma {mark[:9]}"):
        [found] = (await client.contacts.search(text)).items
        assert found.name == f"Zoë {mark}"
        assert found.emails == (f"{mark}@example.com",)
        assert found.phones == ("+49 30 1",)
        assert found.organisation == f"Firma {mark}, Ltd, Lab"
        assert found.note == "only-here\nsecond"
    assert (await client.contacts.search("only-here")).items == ()
    await client._connection.send("DELETE", path)


async def test_a_login_waits_for_the_person(place: Place) -> None:
    """Until the person grants the login, there is no result."""
    server = Server.parse(place[0])
    async with open_http() as http:
        started = await begin_login(http, server, AGENT)
        assert started.login_url.startswith(server.origin)
        assert await poll_login(http, server, AGENT, started.poll_token) is None
        assert await poll_login(http, server, AGENT, "unknown") is None


async def test_cookies_win_over_passwords(place: Place) -> None:
    """Negative control: a client with a cookie jar is not asked for a password any more."""
    url, login, password = place
    user = f"{url}/ocs/v2.php/cloud/user?format=json"
    headers = {"OCS-APIRequest": "true"}
    async with httpx2.AsyncClient(headers=headers) as with_jar:
        right = await with_jar.get(user, auth=(login, password))
        wrong = await with_jar.get(user, auth=(login, "wrong"))
        none = await with_jar.get(user)
    assert [right.status_code, wrong.status_code, none.status_code] == [200, 200, 200]


async def test_a_dotted_path_leaves_the_files(client: Nextcloud, place: Place) -> None:
    """Negative control: an HTTP client folds ``..``, so that files/ becomes calendars/."""
    url, login, password = place
    user = await client.account.user()
    dotted = f"{url}{DAV}/files/{user.id}/../../calendars/{user.id}/"
    async with open_http() as http:
        answer = await http.request(
            "PROPFIND", dotted, auth=(login, password), headers={"Depth": "0"}
        )
    assert answer.status_code == 207
    assert b"/calendars/" in answer.content
    with refused("bad-input"):
        await client.files.list(f"../../calendars/{user.id}")
