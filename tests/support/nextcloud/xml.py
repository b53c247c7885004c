"""WebDAV answers of the stand-in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from starlette.responses import Response

NAMES: Final = {
    "d": "DAV:",
    "s": "http://sabredav.org/ns",
    "cal": "urn:ietf:params:xml:ns:caldav",
    "card": "urn:ietf:params:xml:ns:carddav",
    "oc": "http://owncloud.org/ns",
    "nc": "http://nextcloud.org/ns",
    "nccal": "http://nextcloud.com/ns",
    "sd": "https://github.com/icewind1991/SearchDAV/ns",
}
_DECLARED: Final = " ".join(f'xmlns:{name}="{uri}"' for name, uri in NAMES.items())

#: The XML of each property by its tag.
Properties = Mapping[str, str]


def tag(name: str) -> str:
    """Return ``{DAV:}href`` for ``d:href``."""
    prefix, _, local = name.partition(":")
    return f"{{{NAMES[prefix]}}}{local}"


def element(name: str, content: str) -> str:
    """Return an element with content that is XML already."""
    return f"<{name}>{content}</{name}>"


def text(name: str, content: object) -> tuple[str, str]:
    """Return a property with text, by its tag."""
    return tag(name), element(name, escape(str(content)))


def href(prefix: str, *names: str, folder: bool = False) -> str:
    """Return an href, quoted as sabre does."""
    path = "".join(f"/{quote(name, safe='')}" for name in names)
    return f"{prefix}/remote.php/dav{path}{'/' if folder else ''}"


def multistatus(found: Iterable[tuple[str, Properties]], wanted: Iterable[str]) -> Response:
    """Return the wanted properties of each resource, and which of them it does not have."""
    asked = list(wanted)
    responses = []
    for place, properties in found:
        there = "".join(properties[name] for name in asked if name in properties)
        absent = "".join(
            f'<x:{name.partition("}")[2]} xmlns:x="{name[1:].partition("}")[0]}"/>'
            for name in asked
            if name not in properties
        )
        parts = [
            f"<d:propstat><d:prop>{props}</d:prop><d:status>HTTP/1.1 {status}</d:status>"
            "</d:propstat>"
            for props, status in ((there, "200 OK"), (absent, "404 Not Found"))
            if props
        ]
        responses.append(f"<d:response><d:href>{place}</d:href>{''.join(parts)}</d:response>")
    body = f'<?xml version="1.0"?><d:multistatus {_DECLARED}>{"".join(responses)}</d:multistatus>'
    return Response(body, 207, media_type="application/xml")


def wanted(body: bytes) -> list[str]:
    """Return the tags of the properties that a request asks for."""
    if not body:
        return [tag("d:resourcetype")]
    prop = ET.fromstring(body).find(".//{DAV:}prop")  # noqa: S314 - the tests' own
    return [] if prop is None else [child.tag for child in prop]


def failure(status: int, kind: str, message: str) -> Response:
    """Return an error as sabre writes it."""
    body = (
        f'<?xml version="1.0"?><d:error {_DECLARED}><s:exception>{kind}</s:exception>'
        f"<s:message>{escape(message)}</s:message></d:error>"
    )
    return Response(body, status, media_type="application/xml")
