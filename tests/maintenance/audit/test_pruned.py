"""`db prune` signs its entries if it is given the key that encrypts."""

from __future__ import annotations

import pytest

from nextcloud_mcp_server.auth.audit import Code
from nextcloud_mcp_server.auth.prune import delete_expired
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.maintenance.audit.listing import list_entries
from tests.maintenance.audit.conftest import Place
from tests.support.contents import KEY, OTHER_KEY


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ((KEY,), Code.RIGHT),
        ((OTHER_KEY, KEY), Code.RIGHT),
        ((), Code.UNSIGNED),
        ((OTHER_KEY,), Code.UNSIGNED),
        (("malformed",), Code.UNSIGNED),
    ],
    ids=["the key", "two keys", "no key", "another key", "a malformed key"],
)
def test_its_entries_are_signed_with_the_key_that_encrypts(
    keys: tuple[str, ...], code: Code, place: Place
) -> None:
    """Without it, or with another one, it deletes as before, and its entries are unsigned."""
    place.sql("UPDATE login_flow_sessions SET expires_at = 1")
    settings = place.settings()._replace(keys=keys)
    assert delete_expired(settings)["login_flow_sessions"] == 1
    [one] = list_entries(place.settings(), Keyring(KEY), limit=1).entries
    assert (one.entry.event, one.code) == ("delete_expired_login_flow", code)
    found = place.verify()
    assert (found.is_right, found.unsigned_later) == (True, int(code is Code.UNSIGNED))
