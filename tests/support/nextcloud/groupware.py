"""Calendars and contacts of the stand-in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import icalendar
from dateutil.rrule import rrulestr  # type: ignore[import-untyped]
from starlette.responses import Response

from tests.support.nextcloud import xml
from tests.support.nextcloud.state import Collection, Path, User, new_etag
from tests.support.nextcloud.webdav import matches

if TYPE_CHECKING:
    from starlette.requests import Request

_TRASH = ("trashbin", "<nccal:trash-bin/>")
_CARD = "text/vcard; charset=utf-8"
_EVENT = "text/calendar; charset=utf-8"


async def calendars(  # noqa: PLR0911 - one for each answer
    user: User, path: Path, request: Request
) -> Response:
    """Answer a request below ``/calendars/USER``."""
    body = await request.body()
    if not path:
        special = [("inbox", "<cal:schedule-inbox/>"), ("outbox", "<cal:schedule-outbox/>"),
                   *([_TRASH] if user.calendar_retention is not None else [])]  # fmt: skip
        found = [_place(request, user, "calendars", "", "<d:collection/>")]
        found += [
            _place(request, user, "calendars", name, f"<d:collection/>{kind}")
            for name, kind in special
        ]
        found += [_calendar(request, user, name) for name in user.calendars]
        return xml.multistatus(found, xml.wanted(body))
    if path == ("trashbin",) and user.calendar_retention is not None:
        place, properties = _place(
            request, user, "calendars", _TRASH[0], f"<d:collection/>{_TRASH[1]}"
        )
        properties.update([xml.text("nccal:trash-bin-retention-duration", user.calendar_retention)])
        return xml.multistatus([(place, properties)], xml.wanted(body))
    if request.method == "MKCALENDAR":
        if path[0] in user.calendars:
            return xml.failure(405, "Sabre\\DAV\\Exception\\MethodNotAllowed", "exists")
        root = ET.fromstring(body)  # noqa: S314 - the tests' own
        named = tuple(comp.get("name", "") for comp in root.iter(xml.tag("cal:comp")))
        title = root.findtext(".//{DAV:}displayname") or path[0]
        user.calendars[path[0]] = Collection(title, named or ("VEVENT", "VTODO", "VJOURNAL"))
        return Response(status_code=201)
    calendar = user.calendars.get(path[0])
    if calendar is None:
        return xml.failure(404, "Sabre\\DAV\\Exception\\NotFound", "Node not found")
    if request.method == "REPORT":
        return _calendar_query(request, user, path[0], body)
    if request.method == "PUT":
        kinds = {part.name for part in icalendar.Calendar.from_ical(body).subcomponents}
        if not (kinds - {"VTIMEZONE"}) <= set(calendar.components):
            return xml.failure(
                403,
                "Sabre\\CalDAV\\Exception\\InvalidComponentType",
                "This calendar only supports " + ", ".join(calendar.components),
            )
    return _object(calendar, path[1], request, body, _EVENT)


async def books(user: User, path: Path, request: Request) -> Response:
    """Answer a request below ``/addressbooks/users/USER``."""
    body = await request.body()
    if not path:
        found = [_place(request, user, "addressbooks", "", "<d:collection/>")]
        found += [
            _place(request, user, "addressbooks", name, "<d:collection/><card:addressbook/>")
            for name in user.books
        ]
        return xml.multistatus(found, xml.wanted(body))
    book = user.books.get(path[0])
    if book is None:
        return xml.failure(404, "Sabre\\DAV\\Exception\\NotFound", "Node not found")
    if request.method == "REPORT":
        return _book_query(request, user, path[0], body)
    return _object(book, path[1], request, body, _CARD)


def _object(  # noqa: PLR0911 - one for each answer
    collection: Collection, name: str, request: Request, body: bytes, mime: str
) -> Response:
    there = collection.objects.get(name)
    if request.method == "PUT":
        if not matches(request, there[1] if there else None):
            return xml.failure(412, "Sabre\\DAV\\Exception\\PreconditionFailed", "If-Match")
        if collection.read_only and collection.shared:
            kind = "Sabre\\DAV\\Exception\\NotFound"
            return xml.failure(404, kind, "Calendar with name 'team' could not be found")
        if collection.read_only:
            return xml.failure(403, "Sabre\\DAV\\Exception\\Forbidden", "Access denied")
        etag = new_etag()
        collection.objects[name] = (body.decode(), etag)
        return Response(status_code=204 if there else 201, headers={"ETag": f'"{etag}"'})
    if request.method == "DELETE" and not matches(request, there[1] if there else None):
        return xml.failure(412, "Sabre\\DAV\\Exception\\PreconditionFailed", "If-Match")
    if there is None:
        return xml.failure(404, "Sabre\\DAV\\Exception\\NotFound", "Object not found")
    if request.method == "DELETE":
        del collection.objects[name]
        return Response(status_code=204)
    return Response(there[0], headers={"ETag": f'"{there[1]}"'}, media_type=mime)


def _place(
    request: Request, user: User, root: str, name: str, kind: str
) -> tuple[str, dict[str, str]]:
    names = (root, *(("users",) if root == "addressbooks" else ()), user.id, *filter(None, [name]))
    place = xml.href(request.scope["state"]["prefix"], *names, folder=True)
    return place, {xml.tag("d:resourcetype"): xml.element("d:resourcetype", kind)}


def _calendar(request: Request, user: User, name: str) -> tuple[str, dict[str, str]]:
    calendar = user.calendars[name]
    place, properties = _place(request, user, "calendars", name, "<d:collection/><cal:calendar/>")
    comps = "".join(f'<cal:comp name="{component}"/>' for component in calendar.components)
    rights = "<d:privilege><d:read/></d:privilege>"
    if not calendar.read_only:
        rights += "<d:privilege><d:write/></d:privilege>"
    for tag, content in (
        ("cal:supported-calendar-component-set", comps),
        ("d:current-user-privilege-set", rights),
    ):
        properties[xml.tag(tag)] = xml.element(tag, content)
    properties.update([xml.text("d:displayname", calendar.name)])
    return place, properties


def _calendar_query(request: Request, user: User, name: str, body: bytes) -> Response:
    root = ET.fromstring(body)  # noqa: S314 - the tests' own
    filters = [comp.get("name") for comp in root.iter(xml.tag("cal:comp-filter"))]
    expand = root.find(f".//{xml.tag('cal:expand')}")
    between = None
    if expand is not None:
        between = (_utc(expand.get("start", "")), _utc(expand.get("end", "")))
    found = []
    for place, (text, etag) in user.calendars[name].objects.items():
        if f"BEGIN:{filters[-1]}" not in text:
            continue
        if between is not None:
            content = _expanded(icalendar.Calendar.from_ical(text), between)
            if not content.subcomponents:
                continue
            text = content.to_ical().decode()  # noqa: PLW2901 - what is sent instead
        href = xml.href(request.scope["state"]["prefix"], "calendars", user.id, name, place)
        found.append((href, dict([xml.text("d:getetag", f'"{etag}"'),
                                  xml.text("cal:calendar-data", text)])))  # fmt: skip
    return xml.multistatus(found, xml.wanted(body))


def _utc(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def _expanded(content: Any, between: tuple[datetime, datetime]) -> icalendar.Calendar:
    result = icalendar.Calendar()
    result.add("PRODID", "-//Sabre//Sabre VObject//EN")
    result.add("VERSION", "2.0")
    changed = {
        _aware(part["RECURRENCE-ID"].dt): part
        for part in content.walk("VEVENT")
        if "RECURRENCE-ID" in part
    }
    for part in content.walk("VEVENT"):
        for start in _starts(part, between[1]):
            shown = changed.get(_aware(start), part)
            if "RECURRENCE-ID" in part and part is not shown:
                continue
            begin = shown["DTSTART"].dt if shown is not part else start
            end = begin + _length(shown)
            if _aware(begin) < between[1] and _aware(end) > between[0]:
                result.add_component(_occurrence(shown, begin, end, start, part))
    return result


def _starts(part: Any, until: datetime) -> Iterator[date]:
    start = part["DTSTART"].dt
    if "RECURRENCE-ID" in part:
        return
    if "RRULE" not in part:
        yield start
        return
    excluded = part.get("EXDATE", [])
    excluded = excluded if isinstance(excluded, list) else [excluded]
    skipped = {_aware(value.dt) for group in excluded for value in group.dts}
    first = start if isinstance(start, datetime) else datetime(*start.timetuple()[:3])  # noqa: DTZ001
    for when in rrulestr(part["RRULE"].to_ical().decode(), dtstart=first):
        found = when if isinstance(start, datetime) else when.date()
        if _aware(found) >= until:
            return
        if _aware(found) not in skipped:
            yield found


def _aware(when: date) -> datetime:
    if isinstance(when, datetime):
        try:
            return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC)
        except OverflowError:
            return datetime.max.replace(tzinfo=UTC)
    return datetime(*when.timetuple()[:3], tzinfo=UTC)


def _length(part: Any) -> timedelta:
    length: timedelta
    if "DTEND" in part:
        length = part["DTEND"].dt - part["DTSTART"].dt
        return length
    if "DURATION" in part:
        length = part["DURATION"].dt
        return length
    return timedelta() if isinstance(part["DTSTART"].dt, datetime) else timedelta(days=1)


#: Properties that an occurrence has from its series; the real one keeps all.
_KEPT = ("UID", "SUMMARY", "LOCATION", "DESCRIPTION", "STATUS", "DTSTAMP", "ATTENDEE")


def _occurrence(part: Any, start: date, end: date, original: date, master: Any) -> icalendar.Event:
    event = icalendar.Event()
    for name in _KEPT:
        if name in part:
            event[name] = part[name]
    for name, when in (("DTSTART", start), ("DTEND", end)):
        event.add(name, _aware(when) if isinstance(when, datetime) else when)
    if "RRULE" in master:
        same = original
        event.add("RECURRENCE-ID", _aware(same) if isinstance(same, datetime) else same)
    return event


def _book_query(request: Request, user: User, name: str, body: bytes) -> Response:
    root = ET.fromstring(body)  # noqa: S314 - the tests' own
    filters = [
        (one.get("name", ""), one.findtext(xml.tag("card:text-match")) or "")
        for one in root.iter(xml.tag("card:prop-filter"))
    ]
    limit = int(root.findtext(f".//{xml.tag('card:nresults')}") or "0")
    found = []
    for place, (text, etag) in user.books[name].objects.items():
        plain = re.sub(r"\r?\n[ \t]", "", text).casefold()
        values = re.findall(r"^(?:[^.:;\n]+\.)?([\w-]+)[^:\n]*:(.*)$", plain, re.MULTILINE)
        if any(
            wanted.casefold() == key and text_match.casefold() in value
            for wanted, text_match in filters
            for key, value in values
        ):
            href = xml.href(
                request.scope["state"]["prefix"], "addressbooks", "users", user.id, name, place
            )
            found.append((href, dict([xml.text("d:getetag", f'"{etag}"'),
                                      xml.text("card:address-data", text)])))  # fmt: skip
    return xml.multistatus(found[: limit or None], xml.wanted(body))
