"""What a sign-in and refreshes add to the metrics, and that nobody is named there."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from prometheus_client.parser import text_string_to_metric_families

from tests.oauth.person import Browser, Client, Served, answer


def metrics(client: Client) -> dict[tuple[str, ...], float]:
    """Return the metrics by name and the values of their labels."""
    families = text_string_to_metric_families(client.http.get("/metrics").text)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_answers_to_a_tool_are_counted(
    served: Served, browser: Browser, client: Client
) -> None:
    """Each request of a tool to Nextcloud adds one answer, by the class of its status."""
    token = client.redeem(answer(browser.sign_in(client.url()))["code"]).json()["access_token"]
    before = metrics(client)["nextcloud_mcp_nextcloud_answers_total", "2xx"]
    sent = len(served.nextcloud.state.seen)
    assert client.call(token).json()["result"]["isError"] is False
    requests = len(served.nextcloud.state.seen) - sent
    assert requests >= 1
    after = metrics(client)["nextcloud_mcp_nextcloud_answers_total", "2xx"]
    assert after - before == requests


def test_sign_ins_refreshes_and_answers_are_counted(
    served: Served, browser: Browser, client: Client
) -> None:
    """Rotated, within the grace, and reused; no label has a user, a client or a token."""
    tokens = client.redeem(answer(browser.sign_in(client.url()))["code"]).json()
    old = tokens["refresh_token"]
    assert client.refresh(old).status_code == 200
    assert client.refresh(old).status_code == 200
    found = metrics(client)
    assert found["nextcloud_mcp_grants", "active"] == 1
    with closing(sqlite3.connect(served.database)) as connection, connection:
        connection.execute("UPDATE mcp_tokens SET used_at = used_at - 61 WHERE used_at > 0")
    assert client.refresh(old).status_code == 400
    browser.decide(browser.open(client.url()), "refuse")
    found = metrics(client)
    for outcome in ("rotated", "grace", "reused"):
        assert found["nextcloud_mcp_refreshes_total", outcome] == 1
    for outcome, many in (("started", 1), ("granted", 1), ("refused", 1), ("failed", 0)):
        assert found["nextcloud_mcp_sign_ins_total", outcome] == many
    assert found["nextcloud_mcp_nextcloud_answers_total", "2xx"] >= 3
    assert found["nextcloud_mcp_grants", "reused"] == 1
    text = client.http.get("/metrics").text
    for secret in ("alice", "Test client", client.id, old, served.nextcloud.url):
        assert secret not in text
