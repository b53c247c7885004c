"""The doctor finds what `db audit verify` finds, in the newest entries and the first secrets."""

from __future__ import annotations

import re

import pytest

from nextcloud_mcp_server.maintenance.doctor import audit
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from nextcloud_mcp_server.settings import Settings
from tests.maintenance.audit.conftest import Place
from tests.support.contents import KEY, OTHER_KEY


def found(settings: Settings) -> list[tuple[str, str]]:
    """Return the level and the text of each finding of the check."""
    findings = diagnose(settings).findings
    return [(one.level.value, one.message) for one in findings if one.check == "audit"]


def test_a_sound_log_is_ok(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers are named, and what verifies the rest if there are more entries than it reads."""
    assert found(place.settings()) == [("ok", "9 entries and 12 secrets are right")]
    monkeypatch.setattr(audit, "MOST", 3)
    [(level, text)] = found(place.settings())
    assert level == "ok"
    assert "the rest was not read: nextcloud-mcp-server db audit verify -" in text


@pytest.mark.parametrize(("number", "entries"), [(1, "1 entry without"), (2, "2 entries without")])
def test_an_entry_without_a_code_and_a_secret_without_an_entry_are_named(
    place: Place, number: int, entries: str
) -> None:
    """They are not wrong: one was written before the first secret, one by a released version."""
    place.sql(f"UPDATE audit_logs SET mac = NULL, digest = NULL WHERE id <= {number}")
    [(level, text)] = found(place.settings())
    assert level == "ok"
    assert f"{entries} a code, as before the first secret and before revision 103" in text
    unnamed = re.search(r"; 1 secret without an entry, as of released versions", text)
    assert bool(unnamed) == (number == 2)


def test_forged_entries_and_changed_rows_are_errors(place: Place) -> None:
    """Each has a line with the command that lists them."""
    place.put("alice", place.token("bob"))
    place.sql("UPDATE audit_logs SET hostname = 'x' WHERE id = 1")
    (one, first), (two, second) = found(place.settings())
    assert (one, two) == ("error", "error")
    assert first.startswith("1 entry is forged or changed; to list them: nextcloud-mcp-server db ")
    assert second.startswith("1 secret exchanged, rolled back or forged; to list them: ")


def test_without_the_key_it_is_not_verified(place: Place) -> None:
    """Neither no key nor another one says anything about the log."""
    for settings in (place.settings()._replace(keys=()), place.settings(OTHER_KEY)):
        [(level, text)] = found(settings)
        assert (level, text[:21]) == ("unknown", "it was not verified: ")
    assert found(place.settings(OTHER_KEY, KEY))[0][0] == "ok"
