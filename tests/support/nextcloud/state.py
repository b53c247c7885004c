"""What the stand-in knows: users, passwords, sessions, files, notes, calendars and contacts."""

from __future__ import annotations

import mimetypes
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from string import ascii_letters, digits
from typing import Final

#: Wrong logins from one address, after which every login from it is answered with 429.
ATTEMPTS: Final = 10

Path = tuple[str, ...]


@dataclass
class Node:
    """A file, or a folder if there is no content."""

    content: bytes | None
    id: int
    etag: str
    modified: datetime

    @property
    def is_folder(self) -> bool:
        """Return whether it is a folder."""
        return self.content is None


@dataclass
class Collection:
    """A calendar or an address book: its objects by name, each a text with an etag.

    It is ``shared`` if it is another person's.
    """

    name: str
    components: tuple[str, ...] = ()
    objects: dict[str, tuple[str, str]] = field(default_factory=dict)
    read_only: bool = False
    shared: bool = False


@dataclass
class Note:
    """A note of the app Notes."""

    title: str
    content: str
    category: str
    modified: int
    etag: str


@dataclass
class User:
    """A user with everything that belongs to it.

    ``calendar_retention`` is in seconds: 0 if the trash bin of the calendars is switched off, None
    if this Nextcloud has none.
    """

    id: str
    login_name: str
    password: str
    display_name: str
    timezone: str = "Europe/Berlin"
    enabled: bool = True
    quota: int = -3
    app_passwords: dict[str, str] = field(default_factory=dict)
    files: dict[Path, Node] = field(default_factory=dict)
    trash: list[Path] = field(default_factory=list)
    notes: dict[int, Note] = field(default_factory=dict)
    calendars: dict[str, Collection] = field(default_factory=dict)
    calendar_retention: int | None = 2_592_000
    books: dict[str, Collection] = field(default_factory=dict)


@dataclass
class Flow:
    """A login that began: who wants a password, and the user and the password if granted."""

    user_agent: str
    granted: tuple[str, str] | None = None


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]


class State:
    """A Nextcloud: the tests change it, and the stand-in answers from it."""

    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.sessions: dict[str, str] = {}
        self.flows: dict[str, Flow] = {}
        self.links: dict[str, str] = {}
        self.shares: list[dict[str, object]] = []
        self.seen: list[Seen] = []
        self.wrong_logins = 0
        self.maintenance = False
        self.notes_enabled = True
        self.trash_enabled = True
        self.links_enabled = True
        self.redirect_to = ""
        #: Is answered instead of the page of a login.
        self.login_link = ""
        self._ids = count(1)

    def number(self) -> int:
        """Return a new id."""
        return next(self._ids)

    def add_user(self, user_id: str, password: str, *, login_name: str | None = None) -> User:
        """Create a user, as after the first login: a calendar for events, and address books."""
        user = User(user_id, login_name or user_id, password, user_id.title())
        user.files[()] = self.node(None)
        user.calendars["personal"] = Collection("Personal", ("VEVENT",))
        user.books["contacts"] = Collection("Contacts")
        user.books["z-server-generated--system"] = Collection("Accounts")
        self.users[user_id] = user
        return user

    def node(self, content: bytes | None) -> Node:
        """Return a new file or folder."""
        now = datetime.now(UTC).replace(microsecond=0)
        return Node(content, self.number(), new_etag(), now)

    def put_file(self, user_id: str, path: str, content: bytes) -> Node:
        """Create a file, and its folders."""
        files = self.users[user_id].files
        names = tuple(path.split("/"))
        for depth in range(1, len(names)):
            files.setdefault(names[:depth], self.node(None))
        files[names] = self.node(content)
        return files[names]

    def app_password(self, user_id: str, name: str = "test") -> str:
        """Create an app password, which its user could also have granted."""
        password = "".join(secrets.choice(ascii_letters + digits) for _ in range(72))
        self.users[user_id].app_passwords[password] = name
        return password

    def grant(self, login_url: str, user_id: str) -> str:
        """Grant a login as the person does on Nextcloud's pages, and return the app password."""
        flow = self.flows[self.links[login_url.rstrip("/").rpartition("/")[2]]]
        password = self.app_password(user_id, flow.user_agent)
        flow.granted = (user_id, password)
        return password

    def find(self, login_name: str, password: str) -> User | None:
        """Return the user that a login name and a password belong to."""
        for user in self.users.values():
            known = {user.password, *user.app_passwords}
            if user.login_name == login_name and password in known:
                return user
        return None


def new_etag() -> str:
    """Return an etag, without quotes."""
    return secrets.token_hex(16)


def mime_of(name: str) -> str:
    """Return the type of a file, by its name as Nextcloud does."""
    known = {".md": "text/markdown"}
    guessed = known.get(name[name.rfind(".") :]) or mimetypes.guess_type(name)[0]
    return guessed or "application/octet-stream"
