"""OCS, Login Flow v2 and the app Notes of the stand-in."""

from __future__ import annotations

import json
import re
import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.responses import JSONResponse, Response

from tests.support.nextcloud.state import Flow, Note, State, User, new_etag

if TYPE_CHECKING:
    from starlette.requests import Request


def envelope(data: object, status: int = 200, message: str = "OK") -> Response:
    """Return an answer of OCS."""
    word = "ok" if status < 300 else "failure"
    meta = {"status": word, "statuscode": status, "message": message}
    return JSONResponse({"ocs": {"meta": meta, "data": data}}, status)


def refused(message: str = "Current user is not logged in") -> Response:
    """Return the answer to a request without a valid login."""
    return envelope([], 401, message)


async def ocs(  # noqa: PLR0911 - one for each answer
    state: State, user: User | None, password: str, path: str, request: Request
) -> Response:
    """Answer a request below ``/ocs/v2.php``."""
    if request.headers.get("OCS-APIRequest") != "true":
        return JSONResponse({"message": "CSRF check failed"}, 412)
    if path == "/cloud/capabilities":
        return envelope(_capabilities(state, user))
    if user is None:
        return refused()
    match request.method, path:
        case "GET", "/cloud/user":
            return envelope(_user(user))
        case "DELETE", "/core/apppassword":
            if password not in user.app_passwords:
                return envelope([], 403, "no app password in use")
            del user.app_passwords[password]
            return envelope([])
        case "POST", "/apps/files_sharing/api/v1/shares":
            return _share(state, user, json.loads(await request.body()))
    return envelope([], 404, "Invalid query, please check the syntax.")


def _user(user: User) -> dict[str, object]:
    used = sum(len(node.content or b"") for node in user.files.values())
    return {
        "id": user.id,
        "displayname": user.display_name,
        "display-name": user.display_name,
        "email": f"{user.id}@example.com",
        "language": "en",
        "timezone": user.timezone,
        "quota": {"free": 1000, "used": used, "total": 1000, "relative": 0, "quota": user.quota},
    }


def _capabilities(state: State, user: User | None) -> dict[str, object]:
    apps: dict[str, object] = {"core": {"webdav-root": "remote.php/webdav"}}
    if user is not None:
        apps["files"] = {"undelete": state.trash_enabled, "bigfilechunking": True}
        apps["dav"] = {"chunking": "1.0"}
        apps["files_sharing"] = {
            "api_enabled": True,
            "public": {"enabled": True} if state.links_enabled else {"enabled": False},
        }
        if state.notes_enabled:
            apps["notes"] = {"api_version": ["0.2", "1.4"], "version": "5.0.0"}
    version = {"major": 34, "minor": 0, "micro": 1, "string": "34.0.1", "edition": ""}
    return {"version": version, "capabilities": apps}


def _share(state: State, user: User, wanted: dict[str, object]) -> Response:
    names = tuple(str(wanted["path"]).strip("/").split("/"))
    if names not in user.files:
        return envelope([], 404, "Wrong path, file/folder does not exist")
    if not state.links_enabled:
        return envelope([], 403, "Public link sharing is disabled by the administrator")
    until = wanted.get("expireDate")
    if until is not None and str(until) <= datetime.now(UTC).date().isoformat():
        return envelope([], 404, "Expiration date is in the past")
    token = secrets.token_urlsafe(11)
    share = {
        "id": str(state.number()),
        "share_type": wanted["shareType"],
        "permissions": 17,
        "path": f"/{'/'.join(names)}",
        "expiration": f"{until} 00:00:00" if until else None,
        "token": token,
        "url": f"https://cloud.example.com/s/{token}",
    }
    state.shares.append({**share, "user": user.id, "password": wanted.get("password")})
    return envelope(share)


async def login_flow(state: State, path: str, request: Request) -> Response:
    """Answer the beginning and the polls of Login Flow v2."""
    if path == "":
        token, link = secrets.token_hex(64), secrets.token_hex(64)
        state.flows[token] = Flow(request.headers.get("User-Agent", ""))
        state.links[link] = token
        here = f"http://{request.headers['host']}{request.scope['state']['prefix']}/index.php"
        poll = {"token": token, "endpoint": f"{here}/login/v2/poll"}
        page = state.login_link or f"{here}/login/v2/flow/{link}"
        return JSONResponse({"poll": poll, "login": page})
    form = parse_qs((await request.body()).decode())
    token = form.get("token", [""])[0]
    flow = state.flows.get(token)
    if flow is None or flow.granted is None:
        return JSONResponse([], 404)
    del state.flows[token]
    user_id, password = flow.granted
    return JSONResponse(
        {
            "server": f"http://{request.headers['host']}",
            "loginName": state.users[user_id].login_name,
            "appPassword": password,
        }
    )


async def notes(user: User, path: str, request: Request) -> Response:
    """Answer a request below ``/apps/notes/api/v1/notes``."""
    body = await request.body()
    given = json.loads(body) if body else {}
    if request.method == "POST":
        number = max(user.notes, default=100) + 1
        user.notes[number] = Note("", "", "", 0, "")
        return _written(user, number, given)
    if not path.strip("/"):
        return _notes(user, request)
    number = int(path.strip("/"))
    note = user.notes.get(number)
    if note is None:
        return JSONResponse({"message": "Note not found"}, 404)
    if request.method == "PUT":
        wanted = request.headers.get("If-Match")
        if wanted is not None and wanted != f'"{note.etag}"':
            return JSONResponse(_note(number, note), 412, headers={"ETag": f'"{note.etag}"'})
        return _written(user, number, given)
    return _json(_note(number, note), {"ETag": f'"{note.etag}"'})


def _written(user: User, number: int, given: dict[str, str]) -> Response:
    note = user.notes[number]
    note.title = given.get("title") or note.title or "New note"
    note.content = given.get("content", note.content)
    note.category = given.get("category", note.category)
    note.modified, note.etag = int(time.time()), new_etag()
    return _json(_note(number, note), {"ETag": f'"{note.etag}"'})


def _json(content: object, headers: dict[str, str]) -> Response:
    """Return JSON in ASCII, as PHP writes it: each character is possible, also half of a pair."""
    return Response(json.dumps(content), headers=headers, media_type="application/json")


def _notes(user: User, request: Request) -> Response:
    size = int(request.query_params.get("chunkSize", "0"))
    cursor = request.query_params.get("chunkCursor", "0")
    if not re.fullmatch("[0-9]{1,15}", cursor):
        return JSONResponse({"message": "Bad Request"}, 400)
    start = int(cursor)
    numbers = sorted(user.notes)
    full = numbers[start : start + size] if size else numbers
    end = start + len(full)
    # Without a next chunk, all other notes follow with nothing but their ids.
    rest = [number for number in numbers if number not in full] if end >= len(numbers) else []
    headers = {"X-Notes-Chunk-Cursor": str(end)} if end < len(numbers) else {}
    found = [_note(number, user.notes[number]) for number in full]
    return _json([*found, *({"id": number} for number in rest)], headers)


def _note(number: int, note: Note) -> dict[str, object]:
    return {
        "id": number,
        "title": note.title,
        "content": note.content,
        "category": note.category,
        "modified": note.modified,
        "etag": note.etag,
        "favorite": False,
        "readonly": False,
    }
