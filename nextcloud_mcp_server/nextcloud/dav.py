"""WebDAV: multistatus answers, and the XML of requests."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from nextcloud_mcp_server.nextcloud.addresses import DAV, names_of
from nextcloud_mcp_server.nextcloud.connection import Answer, Connection
from nextcloud_mcp_server.nextcloud.errors import not_nextcloud

#: Prefixes of the namespaces, in requests and in the names of properties.
NAMESPACES: Final = {
    "d": "DAV:",
    "c": "urn:ietf:params:xml:ns:caldav",
    "card": "urn:ietf:params:xml:ns:carddav",
    "oc": "http://owncloud.org/ns",
    "nc": "http://nextcloud.org/ns",
    # That of calendars, which is another one.
    "nccal": "http://nextcloud.com/ns",
    "sd": "https://github.com/icewind1991/SearchDAV/ns",
    "ical": "http://apple.com/ns/ical/",
}
_DECLARED: Final = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NAMESPACES.items())
_PREFIXES: Final = {uri: prefix for prefix, uri in NAMESPACES.items()}

#: Characters that XML does not have, and so neither an event nor a contact: control characters
#: without tab, newline and carriage return, and halves of surrogate pairs.
NO_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")

#: What stands for a character that cannot be shown.
REPLACEMENT: Final = "\ufffd"

_XML: Final = {"Content-Type": "application/xml; charset=utf-8"}


class _Tree(ET.TreeBuilder):
    """Builds a tree, and refuses a DTD: its entities can expand without limit."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Refuse ``<!DOCTYPE``, which no answer of Nextcloud has."""
        raise ValueError(f"a DTD: {name} {pubid} {system}")


@dataclass(frozen=True)
class Resource:
    """One response of a multistatus: the names in its href, and its elements by ``d:name``."""

    names: tuple[str, ...]
    properties: dict[str, ET.Element]

    def text(self, name: str) -> str:
        """Return the text of a property; empty if there is none."""
        element = self.properties.get(name)
        return (element.text or "") if element is not None else ""

    def kinds(self, name: str = "d:resourcetype") -> frozenset[str]:
        """Return the names of the elements in a property."""
        element = self.properties.get(name)
        return (
            frozenset(prefixed(child.tag) for child in element)
            if element is not None
            else (frozenset())
        )


def prefixed(tag: str) -> str:
    """Return ``d:href`` for ``{DAV:}href``; a tag of an unknown namespace stays."""
    uri, _, name = tag.removeprefix("{").partition("}")
    return f"{_PREFIXES[uri]}:{name}" if uri in _PREFIXES else tag


def parse(body: bytes) -> ET.Element:
    """Return the root element of a document.

    Raises:
        ValueError: it is not well-formed, or has a DTD.
    """
    try:
        return _tree(body)
    except ET.ParseError:
        pass
    try:
        return _tree(_repaired(body))
    except ET.ParseError as error:
        raise ValueError(str(error)) from None


def _tree(content: bytes | str) -> ET.Element:
    return ET.fromstring(content, ET.XMLParser(target=_Tree()))  # noqa: S314 - DTDs are refused


def _repaired(body: bytes) -> str:
    """Return a document without the characters that other programs stored, and XML lacks."""

    def checked(reference: re.Match[str]) -> str:
        number = int(reference[1], 16) if reference[1] else int(reference[2])
        legal = number <= sys.maxunicode and not NO_XML.match(chr(number))
        return reference[0] if legal else REPLACEMENT

    text = NO_XML.sub(REPLACEMENT, body.decode("utf-8", "replace"))
    return re.sub(r"&#(?:x0*([0-9a-fA-F]{1,8})|0*([0-9]{1,8}));", checked, text)


def resources(body: bytes) -> list[Resource]:
    """Return the responses of a multistatus with the properties that were found.

    Raises:
        ValueError: it is not a multistatus.
    """
    root = parse(body)
    if root.tag != "{DAV:}multistatus":
        raise ValueError(f"{root.tag} instead of a multistatus")
    found = []
    for response in root.iterfind("{DAV:}response"):
        properties = {
            prefixed(element.tag): element
            for propstat in response.iterfind("{DAV:}propstat")
            if " 200 " in (propstat.findtext("{DAV:}status") or "")
            for prop in propstat.iterfind("{DAV:}prop")
            for element in prop
        }
        found.append(Resource(names_of(response.findtext("{DAV:}href") or ""), properties))
    return found


def props(*names: str) -> str:
    """Return a ``d:prop`` with these elements."""
    return f"<d:prop>{''.join(f'<{name}/>' for name in names)}</d:prop>"


def document(root: str, content: str) -> bytes:
    """Return a document with every namespace declared at its root."""
    return f'<?xml version="1.0"?><{root} {_DECLARED}>{content}</{root}>'.encode()


def escaped(text: str) -> str:
    """Return text for an element or an attribute, without characters that XML does not have."""
    return escape(NO_XML.sub("", text), {'"': "&quot;"})


async def propfind(
    connection: Connection, path: str, names: tuple[str, ...], *, depth: int, what: str
) -> list[Resource]:
    """Return the properties of what is at a path, quoted and below :data:`DAV`.

    Raises:
        NextcloudError: the request failed.
    """
    answer = await connection.send(
        "PROPFIND",
        DAV + path,
        what=what,
        headers={"Depth": str(depth), **_XML},
        body=document("d:propfind", props(*names)),
    )
    return multistatus(connection, answer)


async def query(
    connection: Connection, method: str, path: str, body: bytes, *, what: str
) -> list[Resource]:
    """Return the result of a REPORT or a SEARCH.

    Raises:
        NextcloudError: the request failed.
    """
    headers = {**_XML, "Depth": "1"} if method == "REPORT" else _XML
    answer = await connection.send(method, DAV + path, what=what, headers=headers, body=body)
    return multistatus(connection, answer)


def multistatus(connection: Connection, answer: Answer) -> list[Resource]:
    """Return the resources of an answer.

    Raises:
        NextcloudError: ``not-nextcloud`` if it is not a multistatus.
    """
    try:
        return resources(answer.body)
    except ValueError:
        raise not_nextcloud(connection.server.origin, "no WebDAV at /remote.php/dav") from None
