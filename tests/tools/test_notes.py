"""The tools for notes and contacts."""

from __future__ import annotations

from tests.support.nextcloud.state import Note, User, new_etag
from tests.tools.conftest import Assistant


def _note(user: User, number: int, title: str, text: str = "") -> Note:
    user.notes[number] = Note(title, text, "", 1_700_000_000, new_etag())
    return user.notes[number]


async def test_a_search_reads_all_notes_and_reports_progress(
    assistant: Assistant, alice: User
) -> None:
    """Notes of several chunks are one page, and the client learns how far the search is."""
    for number in range(1, 131):
        _note(alice, number, f"Note {number}", "milk" if number % 13 == 0 else "")
    found = await assistant.call("notes_search", text="MILK")
    assert [item["id"] for item in found["items"]] == [13 * n for n in range(1, 11)]
    assert found["next"] is None
    assert found["items"][0]["modified"] == "2023-11-14T22:13:20Z"
    assert assistant.progress == ["50 notes read, 3 found", "100 notes read, 7 found"]


async def test_notes_are_listed_in_pages_of_fifty(assistant: Assistant, alice: User) -> None:
    """An empty text finds all notes, no note twice."""
    for number in range(1, 121):
        _note(alice, number, f"Note {number}")
    ids, cursor = [], None
    while True:
        page = await assistant.call("notes_search", cursor=cursor)
        assert len(page["items"]) <= 50
        ids += [item["id"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert ids == list(range(1, 121))


async def test_a_note_is_read_in_pages(assistant: Assistant, alice: User) -> None:
    """20,000 characters a page; an unknown note is an error."""
    note = _note(alice, 7, "Long", "x" * 25_000)
    first = await assistant.call("notes_read", id=7)
    assert (first["title"], first["etag"], len(first["text"])) == ("Long", note.etag, 20_000)
    second = await assistant.call("notes_read", id=7, cursor=first["next"])
    assert (len(second["text"]), second["next"]) == (5_000, None)
    assert "no note 8" in await assistant.error("notes_read", id=8)


async def test_a_note_is_created_and_changed(assistant: Assistant, alice: User) -> None:
    """A change needs the etag, and leaves what is not given."""
    made = await assistant.call("notes_write", title="Shopping", text="milk", category="Home")
    assert "needs a title" in await assistant.error("notes_write", text="milk")
    assert "Read the note" in await assistant.error("notes_write", id=made["id"], text="x")
    changed = await assistant.call("notes_write", id=made["id"], etag=made["etag"], text="bread")
    note = alice.notes[made["id"]]
    assert (note.title, note.content, note.category) == ("Shopping", "bread", "Home")
    assert changed["etag"] != made["etag"]
    error = await assistant.error("notes_write", id=made["id"], etag=made["etag"], text="old")
    assert "Somebody changed" in error
    assert note.content == "bread"


async def test_a_note_without_an_etag_is_not_changed(assistant: Assistant, alice: User) -> None:
    """An old app Notes gives none: the error says to update it, and does not lead in a circle."""
    made = await assistant.call("notes_write", title="Old", text="milk")
    note = alice.notes[made["id"]]
    error = await assistant.error("notes_write", id=made["id"], etag="", text="bread")
    assert "Pass the etag that was read" in error
    note.etag = ""
    assert (await assistant.call("notes_read", id=made["id"]))["etag"] == ""
    error = await assistant.error("notes_write", id=made["id"], etag="", text="bread")
    assert "gives no etag" in error
    assert "update the app Notes" in error
    assert note.content == "milk"


async def test_contacts_are_found(assistant: Assistant, alice: User) -> None:
    """A contact has its addresses; a long remark is cut; an empty text is an error."""
    card = (
        "BEGIN:VCARD\r\nVERSION:3.0\r\nUID:1\r\nFN:Carol Example\r\nEMAIL:carol@example.com\r\n"
        f"TEL:+49 30 1\r\nORG:ACME\r\nBDAY:1980-02-03\r\nNOTE:{'n' * 1_500}\r\nEND:VCARD\r\n"
    )
    alice.books["contacts"].objects["carol.vcf"] = (card, new_etag())
    [contact] = (await assistant.call("contacts_search", text="carol"))["items"]
    assert (contact["name"], contact["emails"]) == ("Carol Example", ["carol@example.com"])
    assert (contact["organisation"], contact["birthday"]) == ("ACME", "1980-02-03")
    assert contact["remark"].endswith("n [cut: 1500 characters]")
    assert (await assistant.call("contacts_search", text="nobody"))["items"] == []
    assert "Give a part of a name" in await assistant.error("contacts_search", text="")
