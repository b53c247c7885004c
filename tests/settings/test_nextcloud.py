"""The settings of Nextcloud, and the address of this server."""

from __future__ import annotations

import pytest

from nextcloud_mcp_server.settings.nextcloud import NextcloudSettings, nextcloud_settings
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
