"""The operator's pages: what they say, who may see them, and what they cost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.server.app import create_app
from nextcloud_mcp_server.server.metrics import EVENTS, Metrics
from nextcloud_mcp_server.settings.nextcloud import NextcloudSettings
from nextcloud_mcp_server.settings.process import status_token
from nextcloud_mcp_server.testing.templates import TokenDbAt
from tests.support.contents import KEY

TOKEN = "a-token-of-the-operator"
HERE = "http://127.0.0.1:8000"
PAGES = ("/status", "/metrics")


def client_at(
    database: Path, peer: str = "127.0.0.1", token: str | None = None, public_url: str = ""
) -> TestClient:
    """Return a client of an application; ``public_url`` configures a Nextcloud too."""
    nextcloud = (
        NextcloudSettings("http://127.0.0.1:9", "http://127.0.0.1:9", public_url)
        if public_url
        else None
    )
    app = create_app(database, encryption_key=KEY, status_token=token, nextcloud=nextcloud)
    return TestClient(app, base_url=HERE, client=(peer, 50_000))


@pytest.fixture
def here(database: Path) -> Iterator[TestClient]:
    """A program on the machine of the server."""
    with client_at(database) as client:
        yield client


def samples(client: TestClient) -> dict[tuple[str, ...], float]:
    """Return the metrics by name and the values of their labels."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(answer.text)
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_the_status_has_every_part(token_db_at: TokenDbAt, tmp_path: Path, head: str) -> None:
    """After an upgrade: engine, revision, the backup, keys by fingerprint, journal and grants."""
    database = token_db_at("006").rename(tmp_path / "tokens.db")
    with client_at(database) as client:
        client.portal.call(lambda: client.app_state["storage"].store_refresh_token("u", "s3cret"))  # type: ignore[union-attr]
        facts = client.get("/status", headers={"Accept": "application/json"}).json()
        page = client.get("/status")
    assert facts["database"]["engine"] == "sqlite"
    assert facts["database"]["state"] == "at-head"
    assert facts["database"]["revision"] == head
    assert facts["backups"] == {"count": 0, "newest": None} or facts["backups"]["newest"]["name"]
    [key] = facts["keys"]
    assert re.fullmatch("[0-9a-f]{8}", key["fingerprint"])
    assert key["state"] == "primary"
    assert facts["migrations"][0]["to"] == head
    assert facts["grants"] == {"active": 0, "expired": 0, "revoked": 0, "reused": 0}
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert key["fingerprint"] in page.text
    for words in ("(bytes of changes", "(encrypts what is stored now)", "(encrypts in the form of"):
        assert words in page.text
    assert "(ended, as somebody used an old token" in page.text
    for text in (str(facts), page.text):
        assert "s3cret" not in text
        assert KEY not in text


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-Proto": "https"},
        {"Forwarded": "for=127.0.0.1"},
        {"Via": "1.1 proxy"},
        {"X-Real-IP": "127.0.0.1"},
        {"Host": "attacker.example:8000"},
        {"Host": "127.0.0.1.attacker.example"},
    ],
)
def test_without_a_token_no_proxy_and_no_page_gets_an_answer(
    here: TestClient, path: str, headers: dict[str, str]
) -> None:
    """A forwarded request, and one to a host name that leads to this machine, are refused."""
    assert here.get(path, headers=headers).status_code == 403


@pytest.mark.parametrize("path", PAGES)
def test_without_a_token_only_this_machine_gets_an_answer(database: Path, path: str) -> None:
    """Another address is refused, and the reason names the setting."""
    for peer, status in (("127.0.0.1", 200), ("::1", 200), ("192.0.2.1", 403), ("name", 403)):
        with client_at(database, peer) as client:
            answer = client.get(path)
            assert answer.status_code == status
            assert status == 200 or "STATUS_TOKEN" in answer.text


def test_a_server_behind_a_proxy_needs_a_token(database: Path) -> None:
    """With a PUBLIC_URL of another machine, loopback is the proxy."""
    with client_at(database, public_url="https://mcp.example.com") as client:
        assert client.get("/status").status_code == 403
    with client_at(database, public_url=HERE) as client:
        assert client.get("/status").status_code == 200


@pytest.mark.parametrize("path", PAGES)
def test_a_token_is_needed_from_everywhere(database: Path, path: str) -> None:
    """With a token, loopback is no exception, and a proxy is none either."""
    with client_at(database, token=TOKEN) as client:
        for wrong in ("", "Bearer ", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer \xe4", TOKEN):
            answer = client.get(path, headers={b"Authorization": wrong.encode("latin-1")})
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        given = {"Authorization": f"bearer {TOKEN}", "X-Forwarded-For": "192.0.2.1"}
        assert client.get(path, headers=given).status_code == 200


def test_the_metrics_of_a_start(here: TestClient, head: str) -> None:
    """The start, grants by state, every outcome from zero on, and the latencies."""
    found = samples(here)
    [start] = [labels for labels in found if labels[0] == "nextcloud_mcp_start"]
    assert start[1] == "nothing"
    assert start[3] == head
    assert found["nextcloud_mcp_start_seconds",] >= 0
    for state in ("active", "expired", "revoked", "reused"):
        assert found["nextcloud_mcp_grants", state] == 0
    for outcome in EVENTS["refresh"]:
        assert found["nextcloud_mcp_refreshes_total", outcome] == 0
    for _ in range(8):
        again = samples(here)
    key = ("nextcloud_mcp_store_seconds_count", "read")
    assert again[key] > found[key]
    assert again["nextcloud_mcp_store_seconds_bucket", "read", "+Inf"] == again[key]


def test_only_known_events_are_counted() -> None:
    """A label has no value from outside."""
    metrics = Metrics()
    with pytest.raises(KeyError):
        metrics.count("sign_in", "alice")


@pytest.mark.parametrize("text", ["short", "x" * 30 + "\u00e4", "two words that are long enough"])
def test_a_weak_token_is_refused(text: str) -> None:
    """It must be long, and a header must be able to hold it."""
    with pytest.raises(TokenStorageError) as caught:
        status_token({"STATUS_TOKEN": text})
    assert caught.value.code == "bad-input"
    assert text not in f"{caught.value}"


def test_a_token_is_read_and_hidden() -> None:
    """Empty counts as unset; the value is in no repr."""
    assert status_token({"STATUS_TOKEN": " "}) is None
    found = status_token({"STATUS_TOKEN": TOKEN})
    assert found == TOKEN
    assert TOKEN not in repr(found)
