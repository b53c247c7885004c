"""Addresses: the server, paths of files, and the hrefs in its answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from unicodedata import normalize
from urllib.parse import quote, unquote, urlsplit

from nextcloud_mcp_server.nextcloud.errors import bad_input

#: Where WebDAV, CalDAV and CardDAV begin.
DAV: Final = "/remote.php/dav"

#: Characters of a path, which is quoted into up to twelve times as many bytes.
_LONGEST: Final = 4000


@dataclass(frozen=True)
class Server:
    """The address of a Nextcloud: its origin, and its folder if it is not at the root."""

    origin: str
    folder: str

    @classmethod
    def parse(cls, address: str) -> Server:
        """Return the server of ``https://cloud.example.com`` or ``https://example.com/cloud``.

        Raises:
            NextcloudError: ``bad-input`` for anything else, with a user or a query for example.
        """
        try:
            parts = urlsplit(address.strip())
            host, _ = parts.hostname, parts.port
        except ValueError:
            parts, host = urlsplit(""), None
        extra = parts.username is not None or parts.query or parts.fragment
        if parts.scheme not in {"http", "https"} or not host or extra:
            raise bad_input(
                "The address of Nextcloud is not an http or https URL.",
                "Set NEXTCLOUD_HOST to an address like https://cloud.example.com, without a user "
                "or a password.",
            )
        folder = parts.path.rstrip("/").removesuffix("/index.php")
        return cls(f"{parts.scheme}://{parts.netloc.lower()}", folder)

    def url(self, path: str) -> str:
        """Return the URL of a quoted path that begins with a slash."""
        return f"{self.origin}{self.folder}{path}"


def segments(path: str) -> tuple[str, ...]:
    """Return the names of a path; slashes at its ends do not count, and the root has none.

    The names are composed (NFC), as Nextcloud stores them whatever it is sent.

    Raises:
        NextcloudError: ``bad-input`` for ``.``, ``..``, an empty name, a NUL, a backslash or a
            character that has no UTF-8. HTTP clients fold ``..``, servers also a quoted one, and
            the request would leave the folder of the person's files.
    """
    if len(path) > _LONGEST:
        raise bad_input("The path is too long.", f"Give a path of at most {_LONGEST} characters.")
    inner = normalize("NFC", path).removeprefix("/").removesuffix("/")
    return tuple(segment(name) for name in inner.split("/")) if inner else ()


def segment(name: str) -> str:
    """Return one name of a path, or of an object in a calendar, if it can be one.

    Raises:
        NextcloudError: ``bad-input``, as :func:`segments`, and for a slash.
    """
    surrogate = any("\ud800" <= character <= "\udfff" for character in name)
    if name in {"", ".", ".."} or surrogate or any(c in name for c in "/\\\0"):
        raise bad_input(
            f"The name {name!r} cannot be used in a path of Nextcloud.",
            "Give a path like Documents/notes.txt, without '.', '..', empty names, backslashes "
            "and control characters.",
        )
    return name


def quoted(*names: str) -> str:
    """Return a path of these names, each with a slash before it and quoted on its own."""
    return "".join(f"/{quote(segment(name), safe='')}" for name in names)


def names_of(href: str) -> tuple[str, ...]:
    """Return the names of an href of WebDAV below :data:`DAV`, unquoted once."""
    path = urlsplit(href).path
    _, _, below = path.partition(DAV)
    return tuple(unquote(name) for name in below.strip("/").split("/"))
