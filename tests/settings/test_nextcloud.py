"""The settings of Nextcloud, and the address of this server."""

from __future__ import annotations

import pytest

from nextcloud_mcp_server.settings.nextcloud import (
    NextcloudSettings,
    lacks_public_url,
    nextcloud_settings,
)
from tests.support.errors import refuses

HERE = ("127.0.0.1", 8000)


def test_without_a_host_there_is_no_nextcloud() -> None:
    """An empty variable counts as unset, and then the others are not read."""
    assert nextcloud_settings({}, listening=HERE) is None
    assert nextcloud_settings({"NEXTCLOUD_HOST": " ", "PUBLIC_URL": "x"}, listening=HERE) is None


def test_every_variable_is_read() -> None:
    """Hosts are in lower case, and slashes at the end are dropped."""
    environ = {
        "NEXTCLOUD_HOST": "http://App:8080/",
        "NEXTCLOUD_PUBLIC_URL": "https://Cloud.example.com/nextcloud/",
        "PUBLIC_URL": "https://mcp.example.com/",
        "READ_ONLY": "true",
        "SHARE_LINKS": "true",
    }
    assert nextcloud_settings(environ, listening=HERE) == NextcloudSettings(
        "http://app:8080",
        "https://cloud.example.com/nextcloud",
        "https://mcp.example.com",
        read_only=True,
        share_links=True,
    )


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),  # noqa: S104 - an argument
        ("::1", "http://[::1]:8000"),
        ("localhost", "http://localhost:8000"),
    ],
)
def test_the_public_url_is_where_the_server_listens(host: str, url: str) -> None:
    """Without PUBLIC_URL, clients of this machine find it."""
    environ = {"NEXTCLOUD_HOST": "https://cloud.example.com"}
    settings = nextcloud_settings(environ, listening=(host, 8000))
    assert settings is not None
    assert (settings.public_url, settings.browser_url) == (url, "https://cloud.example.com")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NEXTCLOUD_HOST", "cloud.example.com"),
        ("NEXTCLOUD_HOST", "https://user:password@cloud.example.com"),
        ("NEXTCLOUD_HOST", "https://cloud.example.com?x"),
        ("NEXTCLOUD_HOST", "https://cloud.example.com:port"),
        ("NEXTCLOUD_PUBLIC_URL", "ftp://cloud.example.com"),
        ("PUBLIC_URL", "https://example.com/mcp"),
        ("PUBLIC_URL", "http://mcp.example.com"),
        ("READ_ONLY", "maybe"),
        ("SHARE_LINKS", "maybe"),
    ],
)
def test_other_values_are_refused(variable: str, value: str) -> None:
    """The error names the variable, and shows no password."""
    environ = {"NEXTCLOUD_HOST": "https://cloud.example.com", variable: value}
    with refuses("bad-input") as caught:
        nextcloud_settings(environ, listening=HERE)
    assert variable in str(caught.value)
    assert "password@" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "quoted", "reason"),
    [
        ("https://mcp.example.com?x", "'https://mcp.example.com?x'", "has a query (?)"),
        ("https://mcp.example.com#x", "'https://mcp.example.com#x'", "has a fragment (#)"),
        ("https://a:b/c@mcp.example.com", "'https://***@mcp.example.com'", "port"),
        ("https://a:b@mcp.example.com", "'https://***@mcp.example.com'", "a user or a password"),
        ("mcp.example.com", "'mcp.example.com'", "does not begin with https://"),
        ("https://[::1", "'https://[::1'", "is no URL"),
        ("https://", "'https://'", "has no host"),
        ("https://mcp.example.com:99999", "'https://mcp.example.com:99999'", "up to 65535"),
        ("aB3dE-fG4hI-jK5lM-nO6pQ-rS7tU", "another text", "does not begin with https://"),
        ("alice:pa@ss.word", "another text", "does not begin with https://"),
    ],
)
def test_a_wrong_address_is_quoted_with_its_reason(value: str, quoted: str, reason: str) -> None:
    """The whole address without its password, why it is none, and an example of this server."""
    environ = {"NEXTCLOUD_HOST": "https://cloud.example.com", "PUBLIC_URL": value}
    with refuses("bad-input") as caught:
        nextcloud_settings(environ, listening=HERE)
    assert caught.value.message.startswith(f"PUBLIC_URL is {quoted}, which ")
    assert reason in caught.value.message
    assert "https://mcp.example.com." in caught.value.remedy


@pytest.mark.parametrize(
    ("host", "environ", "lacking"),
    [
        ("127.0.0.1", {}, False),
        ("localhost", {}, False),
        ("0.0.0.0", {}, True),  # noqa: S104 - an argument
        ("192.0.2.1", {"PUBLIC_URL": " "}, True),
        ("0.0.0.0", {"PUBLIC_URL": "http://127.0.0.1:8000"}, False),  # noqa: S104 - an argument
    ],
)
def test_other_machines_need_a_public_url(
    host: str, environ: dict[str, str], lacking: bool
) -> None:
    """A server for this machine alone needs none, and one that is set is meant."""
    assert lacks_public_url(host, environ) is lacking
