"""Addresses and paths: what is refused, and that a name survives quoting."""

from __future__ import annotations

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextcloud_mcp_server.nextcloud.addresses import DAV, Server, names_of, quoted, segments
from nextcloud_mcp_server.nextcloud.errors import NextcloudError

#: Names as a person gives them: any text without what a path cannot have.
NAMES = st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1)
GOOD = NAMES.filter(lambda name: name not in {".", ".."})


@given(st.lists(GOOD, min_size=1, max_size=5))
def test_names_survive_quoting_and_the_http_client(names: list[str]) -> None:
    """The path that is sent has exactly these names, whatever their characters are."""
    path = f"{DAV}{quoted(*names)}"
    sent = httpx2.URL(f"https://cloud.example.com{path}")
    assert sent.raw_path.decode() == path
    assert sent.host == "cloud.example.com"
    assert names_of(path) == tuple(names)


@given(st.lists(GOOD, min_size=1, max_size=5))
def test_a_path_is_its_names(names: list[str]) -> None:
    """Slashes at the ends do not count."""
    path = "/".join(names)
    assert segments(path) == segments(f"/{path}/") == tuple(names)


@given(st.text())
def test_no_path_leaves_the_files(path: str) -> None:
    """Any text is refused, or stays below the folder of the files."""
    try:
        names = segments(path)
    except NextcloudError as error:
        assert error.code == "bad-input"
        return
    sent = httpx2.URL(f"https://cloud.example.com{DAV}{quoted('files', 'alice', *names)}")
    assert sent.raw_path.decode().startswith(f"{DAV}/files/alice")
    assert names_of(sent.raw_path.decode())[2:] == names


@pytest.mark.parametrize(
    "path",
    ["..", "a/../b", "a/./b", ".", "a//b", "a\\b", "a\0b", "//a", "a//", "\ud800", "x" * 4001],
)
def test_a_path_that_could_leave_is_refused(path: str) -> None:
    """Dots, empty names, NUL, backslash and half a character are refused."""
    with pytest.raises(NextcloudError, match=r"cannot be used|too long"):
        segments(path)


def test_the_root_has_no_names() -> None:
    """An empty path and a slash are the folder of all files."""
    assert segments("") == segments("/") == ()


def test_an_href_is_unquoted_once() -> None:
    """A name with a percent sign stays one, in a folder of the server too."""
    assert names_of("/cloud/remote.php/dav/files/alice/100%2525%20%23.txt") == (
        "files", "alice", "100%25 #.txt",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("https://cloud.example.com", "https://cloud.example.com/x"),
        (" https://Cloud.Example.com:8443/ ", "https://cloud.example.com:8443/x"),
        ("http://example.com/cloud/", "http://example.com/cloud/x"),
        ("https://example.com/cloud/index.php", "https://example.com/cloud/x"),
        ("http://[::1]:8080", "http://[::1]:8080/x"),
    ],
)
def test_an_address(address: str, url: str) -> None:
    """A server can be at the root or in a folder."""
    assert Server.parse(address).url("/x") == url


@pytest.mark.parametrize(
    "address",
    ["", "cloud.example.com", "ftp://example.com", "https://", "https://a:b@example.com",
     "https://a@example.com", "https://example.com?x=1", "https://example.com#x",
     "https://example.com:port", "https://[::1"],
)  # fmt: skip
def test_an_address_that_is_none(address: str) -> None:
    """An address without http, a host, or with a password is refused, and not repeated."""
    with pytest.raises(NextcloudError, match="not an http or https URL") as caught:
        Server.parse(address)
    assert caught.value.code == "bad-input"


def test_a_dotted_path_would_be_folded() -> None:
    """Negative control: the HTTP client folds dots, and a server may fold quoted ones."""
    assert httpx2.URL("https://h/files/../calendars").raw_path == b"/calendars"
    assert httpx2.URL("https://h/files/%2e%2e/calendars").raw_path == b"/files/%2e%2e/calendars"
