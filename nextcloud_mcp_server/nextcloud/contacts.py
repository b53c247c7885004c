"""Contacts: a search in the address books of the account."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from nextcloud_mcp_server.nextcloud import errors
from nextcloud_mcp_server.nextcloud.account import Account
from nextcloud_mcp_server.nextcloud.addresses import quoted
from nextcloud_mcp_server.nextcloud.connection import Connection
from nextcloud_mcp_server.nextcloud.dav import document, escaped, propfind, query
from nextcloud_mcp_server.nextcloud.paging import ITEMS, Page, offset_of, page

#: Where the text is looked for.
_SEARCHED: Final = ("FN", "NICKNAME", "EMAIL", "TEL", "ORG")

#: Books that Nextcloud generates, of all users for example.
_GENERATED: Final = "z-server-generated"


@dataclass(frozen=True)
class Contact:
    """A person or an organisation. Dates are as the card has them."""

    book: str
    uid: str
    name: str
    emails: tuple[str, ...]
    phones: tuple[str, ...]
    addresses: tuple[str, ...]
    organisation: str
    title: str
    birthday: str
    note: str


class Contacts:
    """The address books of the account, without those that Nextcloud generates."""

    def __init__(self, connection: Connection, account: Account) -> None:
        self._connection = connection
        self._account = account

    async def search(self, text: str, *, cursor: str | None = None) -> Page[Contact]:
        """Return the contacts with this text in a name, an address, a number or a company.

        Raises:
            NextcloudError: ``bad-input`` for an empty text, or the request failed.
        """
        if not text.strip():
            raise errors.bad_input("The text to search for is empty.", "Give a part of a name.")
        home = quoted("addressbooks", "users", (await self._account.user()).id)
        books = await propfind(
            self._connection, home, ("d:resourcetype",), depth=1, what="address books"
        )
        filters = "".join(
            f'<card:prop-filter name="{name}"><card:text-match collation="i;unicode-casemap" '
            f'match-type="contains">{escaped(text)}</card:text-match></card:prop-filter>'
            for name in _SEARCHED
        )
        # There is no offset: what is before the page comes again.
        wanted = offset_of(cursor) + ITEMS + 1
        body = document(
            "card:addressbook-query",
            f'<d:prop><card:address-data/></d:prop><card:filter test="anyof">{filters}'
            f"</card:filter><card:limit><card:nresults>{wanted}</card:nresults></card:limit>",
        )
        found: list[Contact] = []
        for book in books:
            name = book.names[-1]
            if "card:addressbook" in book.kinds() and not name.startswith(_GENERATED):
                cards = await query(
                    self._connection, "REPORT", f"{home}{quoted(name)}", body, what="address book"
                )
                # RFC 6352: a cut result has a response for the book itself, without a card.
                texts = filter(None, (card.text("card:address-data") for card in cards))
                found += [_contact(name, card) for card in texts]
        found.sort(key=lambda contact: (contact.name.casefold(), contact.book, contact.uid))
        return page(found, cursor)


def _contact(book: str, card: str) -> Contact:
    values: dict[str, list[str]] = {}
    for name, value in _lines(card):
        values.setdefault(name, []).append(value)

    def every(name: str) -> tuple[str, ...]:
        return tuple(_plain(value) for value in values.get(name, ()))

    def first(name: str) -> str:
        return next(iter(every(name)), "")

    return Contact(
        book=book,
        uid=first("UID"),
        name=first("FN"),
        emails=every("EMAIL"),
        phones=tuple(phone.removeprefix("tel:") for phone in every("TEL")),
        addresses=every("ADR"),
        organisation=first("ORG"),
        title=first("TITLE"),
        birthday=first("BDAY"),
        note=first("NOTE"),
    )


def _lines(card: str) -> Iterator[tuple[str, str]]:
    """Yield the properties of a vCard, without groups and parameters."""
    # Not splitlines: a line separator inside of a value is none.
    for line in re.split(r"\r?\n", re.sub(r"\r?\n[ \t]", "", card)):
        # A parameter in quotes may have a colon.
        if match := re.match(r'(?:[^.:;"]+\.)?([\w-]+)((?:;(?:"[^"]*"|[^":;])*)*):(.*)', line):
            yield match[1].upper(), match[3]


def _plain(value: str) -> str:
    """Return a value without escapes; parts of an address or a company, joined by commas."""
    parts = re.split(r"(?<!\\);", value)
    return ", ".join(
        re.sub(r"\\(.)", lambda m: "\n" if m[1] in "nN" else m[1], part) for part in parts if part
    )
