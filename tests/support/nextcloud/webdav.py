"""Files of the stand-in: PROPFIND, GET, PUT, MKCOL, MOVE, DELETE and SEARCH."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING
from unicodedata import normalize
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree as ET

from starlette.responses import Response

from tests.support.nextcloud import xml
from tests.support.nextcloud.state import Node, Path, State, User, mime_of, new_etag

if TYPE_CHECKING:
    from starlette.requests import Request


async def answer(state: State, user: User, path: Path, request: Request) -> Response:
    """Answer a request for a path below ``/files/USER``."""
    path = _stored(path)
    if _has_control(path):
        return _invalid()
    handler = {
        "PROPFIND": _propfind,
        "GET": _get,
        "PUT": _put,
        "MKCOL": _mkcol,
        "MOVE": _move,
        "DELETE": _delete,
    }.get(request.method)
    if handler is None:
        return xml.failure(501, "Sabre\\DAV\\Exception\\NotImplemented", request.method)
    return handler(state, user, path, request, await request.body())


def _stored(path: Path) -> Path:
    """Return a path as Nextcloud stores it."""
    return tuple(normalize("NFC", name) for name in path)


def _has_control(path: Path) -> bool:
    return any(character < " " for name in path for character in name)


def _invalid() -> Response:
    kind = "OCA\\DAV\\Connector\\Sabre\\Exception\\InvalidPath"
    return xml.failure(400, kind, "File name contains at least one invalid character")


def _missing(path: Path) -> Response:
    name = "/".join(path)
    kind = "Sabre\\DAV\\Exception\\NotFound"
    return xml.failure(404, kind, f"File with name /{name} could not be located")


def _stale() -> Response:
    kind = "Sabre\\DAV\\Exception\\PreconditionFailed"
    return xml.failure(412, kind, "An If-Match header was specified, but none matched")


def matches(request: Request, etag: str | None) -> bool:
    """Check the conditions of a request against the etag of what is there, if anything."""
    wanted, none = request.headers.get("If-Match"), request.headers.get("If-None-Match")
    if none == "*" and etag is not None:
        return False
    return wanted is None or (etag is not None and wanted in {"*", f'"{etag}"'})


def _properties(user: User, path: Path, node: Node) -> xml.Properties:
    size = sum(
        len(other.content or b"")
        for place, other in user.files.items()
        if place[: len(path)] == path
    )
    kind = "<d:collection/>" if node.is_folder else ""
    found = [
        (xml.tag("d:resourcetype"), xml.element("d:resourcetype", kind)),
        xml.text("d:getetag", f'"{node.etag}"'),
        xml.text("d:getlastmodified", format_datetime(node.modified, usegmt=True)),
        xml.text("d:displayname", path[-1] if path else user.id),
        xml.text("oc:fileid", node.id),
        xml.text("oc:size", size),
    ]
    if not node.is_folder:
        found += [
            xml.text("d:getcontentlength", size),
            xml.text("d:getcontenttype", mime_of(path[-1])),
        ]
    return dict(found)


def _response(request: Request, user: User, path: Path, node: Node) -> tuple[str, xml.Properties]:
    prefix = request.scope["state"]["prefix"]
    place = xml.href(prefix, "files", user.id, *path, folder=node.is_folder)
    return place, _properties(user, path, node)


def _propfind(_state: State, user: User, path: Path, request: Request, body: bytes) -> Response:
    if path not in user.files:
        return _missing(path)
    depth = 0 if request.headers.get("Depth") == "0" else 1
    found = [
        _response(request, user, place, node)
        for place, node in user.files.items()
        if place == path or (depth and place[:-1] == path and place)
    ]
    return xml.multistatus(found, xml.wanted(body))


def _get(_state: State, user: User, path: Path, request: Request, _body: bytes) -> Response:
    node = user.files.get(path)
    if node is None:
        return _missing(path)
    if node.content is None:
        return xml.failure(501, "Sabre\\DAV\\Exception\\NotImplemented", "GET on a folder")
    headers = {"ETag": f'"{node.etag}"', "OC-ETag": f'"{node.etag}"'}
    mime = mime_of(path[-1])
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
    if not asked:
        return Response(node.content, headers=headers, media_type=mime)
    start, end = int(asked[1]), min(int(asked[2]) + 1, len(node.content))
    if start >= len(node.content):
        return xml.failure(416, "Sabre\\DAV\\Exception\\RequestedRangeNotSatisfiable", "range")
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(node.content)}"
    return Response(node.content[start:end], 206, headers=headers, media_type=mime)


def _put(state: State, user: User, path: Path, request: Request, body: bytes) -> Response:
    node = user.files.get(path)
    parent = user.files.get(path[:-1])
    if parent is None or not parent.is_folder:
        return _missing(path[:-1])
    if not matches(request, node.etag if node else None):
        return _stale()
    if node is not None and node.is_folder:
        return xml.failure(409, "Sabre\\DAV\\Exception\\Conflict", "PUT on a folder")
    used = sum(len(other.content or b"") for other in user.files.values())
    if 0 <= user.quota < used + len(body):
        kind = "Sabre\\DAV\\Exception\\InsufficientStorage"
        return xml.failure(507, kind, "Insufficient space in /, 1 required")
    if node is None:
        user.files[path] = node = state.node(body)
        status = 201
    else:
        node.content, node.etag, node.modified = body, new_etag(), datetime.now(UTC)
        status = 204
    _touch(user, path)
    headers = {"ETag": f'"{node.etag}"', "OC-ETag": f'"{node.etag}"'}
    return Response(status_code=status, headers=headers)


def _touch(user: User, path: Path) -> None:
    for depth in range(len(path)):
        user.files[path[:depth]].etag = new_etag()


def _mkcol(state: State, user: User, path: Path, _request: Request, _body: bytes) -> Response:
    if path in user.files:
        kind = "Sabre\\DAV\\Exception\\MethodNotAllowed"
        return xml.failure(405, kind, "The resource you tried to create already exists")
    if path[:-1] not in user.files:
        return xml.failure(409, "Sabre\\DAV\\Exception\\Conflict", "Parent node does not exist")
    user.files[path] = state.node(None)
    return Response(status_code=201)


def _move(_state: State, user: User, path: Path, request: Request, _body: bytes) -> Response:
    prefix = f"{request.scope['state']['prefix']}/remote.php/dav/files/{user.id}/"
    below = urlsplit(request.headers["Destination"]).path.removeprefix(prefix)
    target = _stored(tuple(unquote(name) for name in below.split("/")))
    if _has_control(target):
        return _invalid()
    if path not in user.files:
        return _missing(path)
    if target[:-1] not in user.files:
        kind = "Sabre\\DAV\\Exception\\Conflict"
        return xml.failure(409, kind, "The destination node is not found")
    if target in user.files and request.headers.get("Overwrite") == "F":
        kind = "Sabre\\DAV\\Exception\\PreconditionFailed"
        return xml.failure(
            412,
            kind,
            "The destination node already exists, and the overwrite header is set to false",
        )
    for place in [place for place in user.files if place[: len(path)] == path]:
        user.files[target + place[len(path) :]] = user.files.pop(place)
    return Response(status_code=201)


def _delete(state: State, user: User, path: Path, request: Request, _body: bytes) -> Response:
    node = user.files.get(path)
    # Sabre compares the etags of files alone: with an If-Match no folder is ever deleted.
    if not matches(request, None if node is None or node.is_folder else node.etag):
        return _stale()
    if node is None:
        return _missing(path)
    if not path:
        return xml.failure(403, "Sabre\\DAV\\Exception\\Forbidden", "")
    for place in [place for place in user.files if place[: len(path)] == path]:
        del user.files[place]
    if state.trash_enabled:
        user.trash.append(path)
    return Response(status_code=204)


async def search(user: User, request: Request) -> Response:
    """Answer a SEARCH for names; ``firstresult`` counts only in its own namespace."""
    body = await request.body()
    root = ET.fromstring(body)  # noqa: S314 - the tests' own
    scope = root.findtext(".//{DAV:}scope/{DAV:}href") or ""
    if unquote(scope).strip("/").split("/")[:2] != ["files", user.id]:
        return xml.failure(404, "Sabre\\DAV\\Exception\\NotFound", "Search scope not found")
    like = _pattern(root.findtext(".//{DAV:}like/{DAV:}literal") or "")
    count = int(root.findtext(".//{DAV:}limit/{DAV:}nresults") or "100")
    first = int(root.findtext(f".//{{DAV:}}limit/{xml.tag('sd:firstresult')}") or "0")
    found = [
        (place, node)
        for place, node in user.files.items()
        if place and re.fullmatch(like, place[-1], re.IGNORECASE | re.DOTALL)
    ]
    found.sort(key=lambda item: (item[1].modified, item[1].id), reverse=True)
    prop = root.find(".//{DAV:}select/{DAV:}prop")
    names = [child.tag for child in prop] if prop is not None else []
    page = found[first : first + count]
    return xml.multistatus([_response(request, user, *item) for item in page], names)


def _pattern(like: str) -> str:
    parts = re.findall(r"\\.|.", like, re.DOTALL)
    wild = {"%": ".*", "_": "."}
    return "".join(wild.get(part) or re.escape(part[-1]) for part in parts)
