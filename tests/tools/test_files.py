"""The tools for the account and its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nextcloud_mcp_server.tools.results import DATA
from tests.support.nextcloud.server import StandIn
from tests.support.nextcloud.state import User
from tests.tools.conftest import Assistant, account, server

if TYPE_CHECKING:
    import httpx2


async def test_whoami_names_the_account(
    assistant: Assistant, stand_in: StandIn, alice: User
) -> None:
    """The user, the time zone, the quota, Nextcloud and the scopes."""
    alice.quota = 5_000
    found = await assistant.call("whoami")
    assert (found["user_id"], found["timezone"], found["quota"]) == ("alice", "Europe/Berlin", 5000)
    assert (found["nextcloud"], found["version"]) == (stand_in.url, "34.0.1")
    assert "files:share" in found["scopes"]
    assert found["advice"] == ""


async def test_a_login_password_is_told_to_be_replaced(
    stand_in: StandIn, http: httpx2.AsyncClient, era: str
) -> None:
    """It works, and whoami says how to replace it. Nextcloud is not asked about it."""
    settings = account(stand_in, password="alice-login-password")
    advice = (await Assistant(server(settings, http), era).call("whoami"))["advice"]
    assert advice.startswith("NEXTCLOUD_PASSWORD looks like a login password.")
    assert "Devices & sessions" in advice
    assert not [seen for seen in stand_in.state.seen if "apppassword" in seen.path]


async def test_a_password_in_groups_is_an_app_password(
    stand_in: StandIn, http: httpx2.AsyncClient, alice: User, era: str
) -> None:
    """Nextcloud shows people app passwords as five groups of five characters."""
    password = "aB3de-fGh5i-jkLmn-opQrs-tuV9x"
    alice.app_passwords[password] = "made in the settings"
    assistant = Assistant(server(account(stand_in, password=password), http), era)
    assert (await assistant.call("whoami"))["advice"] == ""


async def test_a_refused_password_is_tried_once(
    stand_in: StandIn, http: httpx2.AsyncClient, era: str
) -> None:
    """The list is complete, each call says how to connect again, and one login has failed."""
    assistant = Assistant(server(account(stand_in, password="wrong-password"), http), era)
    await assistant.names()
    for _ in range(3):
        error = await assistant.error("files_list")
        assert "refused the app password" in error
        assert "Set NEXTCLOUD_PASSWORD" in error
        assert "wrong-password" not in error
    assert stand_in.state.wrong_logins == 1


async def test_files_are_listed_in_pages(assistant: Assistant, stand_in: StandIn) -> None:
    """A folder has 50 entries a page, folders first; an unknown folder and cursor are errors."""
    for number in range(60):
        stand_in.state.put_file("alice", f"many/{number:02}.txt", b"x")
    stand_in.state.put_file("alice", "many/sub/a.txt", b"x")
    first = await assistant.call("files_list", path="many")
    assert (len(first["items"]), first["items"][0]["path"]) == (50, "many/sub")
    second = await assistant.call("files_list", path="many", cursor=first["next"])
    assert [item["path"] for item in second["items"]][-1] == "many/59.txt"
    assert (len(second["items"]), second["next"]) == (11, None)
    assert "List or search first" in await assistant.error("files_list", path="none")
    assert "Pass `next`" in await assistant.error("files_list", path="many", cursor="-1")
    assert "cannot be used in a path" in await assistant.error("files_list", path="../bob")


async def test_files_are_found_by_name(assistant: Assistant, stand_in: StandIn) -> None:
    """A part of the name is enough; an empty one is an error."""
    stand_in.state.put_file("alice", "Documents/Report 1.txt", b"x")
    stand_in.state.put_file("alice", "other.txt", b"x")
    found = await assistant.call("files_search", name="report")
    assert [item["path"] for item in found["items"]] == ["Documents/Report 1.txt"]
    assert "Give a part of a name" in await assistant.error("files_search", name=" ")


async def test_a_text_is_read_in_pages(assistant: Assistant, stand_in: StandIn) -> None:
    """20,000 characters a page, each marked as data; binary files and folders are errors."""
    stand_in.state.put_file("alice", "long.txt", ("ä" * 30_000).encode())
    stand_in.state.put_file("alice", "a/b.bin", b"\0\xff")
    first = await assistant.call("files_read", path="long.txt")
    assert (len(first["text"]), first["note"]) == (20_000, DATA)
    second = await assistant.call("files_read", path="long.txt", cursor=first["next"])
    assert (len(second["text"]), second["next"]) == (10_000, None)
    assert "not text" in await assistant.error("files_read", path="a/b.bin")
    error = await assistant.error("files_read", path="a")
    assert error.endswith("'a' is a folder, not a file. List it instead.")
    stand_in.state.put_file("alice", "long.txt", b"new")
    error = await assistant.error("files_read", path="long.txt", cursor=first["next"])
    assert "Read it again" in error


async def test_a_file_is_created_and_overwritten(assistant: Assistant, alice: User) -> None:
    """Without an etag nothing is overwritten; with an old one neither."""
    written = await assistant.call("files_write", path="new/a.txt", text="one")
    assert alice.files["new", "a.txt"].content == b"one"
    assert "pass its etag" in await assistant.error("files_write", path="new/a.txt", text="x")
    again = {"path": "new/a.txt", "etag": written["etag"]}
    await assistant.call("files_write", **again, text="two")
    assert "new etag" in await assistant.error("files_write", **again, text="three")
    assert alice.files["new", "a.txt"].content == b"two"


async def test_a_file_is_moved_over_nothing(
    assistant: Assistant, stand_in: StandIn, alice: User
) -> None:
    """A move creates the folder, and does not overwrite."""
    stand_in.state.put_file("alice", "a.txt", b"a")
    stand_in.state.put_file("alice", "b.txt", b"b")
    moved = await assistant.call("files_move", path="a.txt", target="new/c.txt")
    assert moved["path"] == "new/c.txt"
    error = await assistant.error("files_move", path="b.txt", target="new/c.txt")
    assert "already" in error
    assert alice.files["new", "c.txt"].content == b"a"


async def test_a_name_in_an_error_is_readable(assistant: Assistant) -> None:
    """Letters of any language stay; what shows nothing or turns the text around is escaped."""
    assert "'Grüße/日本.txt'" in await assistant.error("files_read", path="Grüße/日本.txt")
    error = await assistant.error("files_read", path="a\u202eb.txt")
    assert r"'a\u202eb.txt'" in error
    assert "'Grüße'" in await assistant.error("event_read", calendar="Grüße", id="1.ics")


async def test_a_file_is_deleted_to_the_trash_bin(
    assistant: Assistant, stand_in: StandIn, alice: User
) -> None:
    """It needs the current etag."""
    node = stand_in.state.put_file("alice", "a.txt", b"a")
    assert "Somebody changed" in await assistant.error("files_delete", path="a.txt", etag="old")
    assert "etag: Field required" in await assistant.error("files_delete", path="a.txt")
    deleted = await assistant.call("files_delete", path="a.txt", etag=node.etag)
    assert (deleted["path"], alice.trash) == ("a.txt", [("a.txt",)])


async def test_a_public_link_is_created(assistant: Assistant, stand_in: StandIn) -> None:
    """With an expiry and a password; an unknown file is an error."""
    stand_in.state.put_file("alice", "a.txt", b"a")
    link = await assistant.call("files_share", path="a.txt", expires="2030-01-31", password="pw")
    assert (link["path"], link["expires"]) == ("a.txt", "2030-01-31")
    assert link["url"].startswith("https://cloud.example.com/s/")
    assert stand_in.state.shares[0]["password"] == "pw"
    assert "has no" in await assistant.error("files_share", path="none")


async def test_a_wrong_argument_is_named_without_its_value(assistant: Assistant) -> None:
    """The error says which argument is wrong and why."""
    error = await assistant.error("files_read", path=["secret"])
    assert error == (
        "files_read was not called: path: Input should be a valid string. Correct the arguments."
    )


async def test_the_text_of_a_result_is_its_structure(assistant: Assistant) -> None:
    """A client without structured results gets the same as compact JSON, the mark first."""
    result = await assistant.result("files_list")
    [content] = result.content
    assert content.type == "text"
    assert content.text.startswith('{"note":"Data of the person')
    assert content.text.endswith('"items":[],"next":null}')
