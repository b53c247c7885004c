"""The account of one person: what is read, what is missing, and what is refused."""

from __future__ import annotations

import pickle

import pytest

from nextcloud_mcp_server.settings.nextcloud import account_settings
from nextcloud_mcp_server.settings.variables import ACCOUNT_VARIABLES

GIVEN = {
    "NEXTCLOUD_HOST": " https://Cloud.example.com/nextcloud/ ",
    "NEXTCLOUD_USERNAME": "alice\n",
    "NEXTCLOUD_PASSWORD": " planted-secret ",
    "READ_ONLY": "True",
    "SHARE_LINKS": "",
}


def test_an_account_is_read_without_blanks() -> None:
    """Blanks around a value and the slash of the address do not count; empty is unset."""
    settings = account_settings(GIVEN)
    assert settings.host == "https://cloud.example.com/nextcloud"
    assert (settings.username, settings.password) == ("alice", "planted-secret")
    assert (settings.read_only, settings.share_links, settings.missing) == (True, False, ())


def test_the_password_is_not_shown_or_pickled() -> None:
    """No text of the settings has it."""
    settings = account_settings(GIVEN)
    assert "planted-secret" not in f"{settings!r} {settings} {[settings]}"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(settings)


@pytest.mark.parametrize("missing", range(3))
def test_what_is_missing_is_named(missing: int) -> None:
    """Each of the first three variables is needed."""
    name = ACCOUNT_VARIABLES[missing]
    assert account_settings({**GIVEN, name: " "}).missing == (name,)
    assert account_settings({}).missing == ACCOUNT_VARIABLES[:3]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("https://cloud.example.com", False),
        ("http://cloud.example.com", True),
        ("http://127.0.0.1:8080", False),
        ("http://[::1]:8080", False),
        ("http://localhost", False),
        ("", False),
    ],
)
def test_plain_http_is_fine_on_this_machine_alone(host: str, expected: bool) -> None:
    """Elsewhere the password would be sent unencrypted."""
    assert account_settings({"NEXTCLOUD_HOST": host}).unencrypted is expected


@pytest.mark.parametrize(
    "host",
    ["cloud.example.com", "ftp://x", "https://alice:secret@x", "https://x/?a", "https://x:port"],
)
def test_what_is_no_address_is_kept_as_a_problem(host: str) -> None:
    """The problem names the variable and what to set, and no password in it."""
    settings = account_settings({**GIVEN, "NEXTCLOUD_HOST": host})
    assert settings.host == ""
    assert settings.wrong.startswith("NEXTCLOUD_HOST is ")
    assert "Set NEXTCLOUD_HOST to" in settings.wrong
    assert "secret" not in settings.wrong


def test_a_wrong_flag_counts_as_the_one_that_allows_less() -> None:
    """Every problem is named, and nothing more is allowed for it."""
    settings = account_settings({**GIVEN, "READ_ONLY": "yes", "SHARE_LINKS": "yes"})
    assert (settings.read_only, settings.share_links) == (True, False)
    assert "READ_ONLY is 'yes'" in settings.wrong
    assert "SHARE_LINKS is 'yes'" in settings.wrong
    assert account_settings(GIVEN).wrong == ""
