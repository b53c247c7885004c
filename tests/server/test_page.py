"""The page at ``/`` and the list of health checks at ``/health``."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from nextcloud_mcp_server import __version__
from nextcloud_mcp_server.server import health
from nextcloud_mcp_server.server.app import create_app
from tests.cli.places import execute
from tests.support.contents import KEY


class _Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data.split()


def test_the_page_names_the_program_its_state_and_the_documentation(client: TestClient) -> None:
    """The page has the name, the version, the words of /health/ready, and where to read more."""
    answer = client.get("/")
    ready = client.get("/health/ready").json()

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    words = _Page(answer.text).words
    assert "nextcloud-mcp-server --help" in " ".join(words)
    for word in ("nextcloud-mcp-server", __version__, ready["status"], ready["state"]):
        assert word in words
    assert ready["head"] in words
    assert "docs/" in words
    assert "NEXTCLOUD_HOST" in words


@pytest.mark.parametrize(("read_only", "said"), [(True, "yes"), (False, "no")])
def test_the_page_answers_in_words(
    read_only: bool, said: str, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the database is read-only is yes or no, not a value of Python."""
    facts = {"status": "ready", "read_only": read_only}
    monkeypatch.setattr(health.Health, "as_dict", lambda _: facts)
    assert f"<dt>read only</dt><dd>{said}</dd>" in client.get("/").text


def test_the_page_of_a_server_that_is_not_ready(
    client: TestClient, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The page has the status and the reason of /health/ready, escaped, and no path."""
    execute(database, "UPDATE alembic_version SET version_num = '<b>x'")
    page, ready = client.get("/"), client.get("/health/ready")

    assert page.status_code == ready.status_code == 503
    text = " ".join(_Page(page.text).words)
    assert "unavailable" in text
    assert ready.json()["reason"] in text
    assert "<b>" not in page.text
    assert str(database) not in page.text
    assert str(database) in caplog.text


def test_the_page_of_a_store_that_is_not_open(database: Path) -> None:
    """Without an open store the page says so."""
    page = TestClient(create_app(database, encryption_key=KEY)).get("/")
    assert page.status_code == 503
    assert "The token store is not open." in page.text


def test_the_page_names_nothing_private(client: TestClient, database: Path) -> None:
    """No path, no key and no user is on the page."""
    assert client.portal is not None
    client.portal.call(client.app_state["storage"].store_refresh_token, "alice", "a-token")
    for answer in (client.get("/"), client.get("/health")):
        assert answer.status_code == 200
        text = answer.text
        for private in (str(database), str(database.parent), database.name, KEY, "alice"):
            assert private not in text


def test_the_page_needs_nothing_else_and_may_not_be_framed(client: TestClient) -> None:
    """It has no script, no form and no external resource; its headers allow only its own style."""
    answer = client.get("/")
    page = _Page(answer.text)
    for tag, attributes in page.elements:
        assert tag not in {"script", "img", "iframe", "form", "object", "embed"}
        assert not {"src", "style"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
        if "href" in attributes:
            assert attributes["href"] in {"health", "health/live", "health/ready"}
    [style] = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = {part.strip() for part in answer.headers["content-security-policy"].split(";")}
    assert policy == {
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    }
    assert "prefers-color-scheme: dark" in style
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"


def test_the_page_is_accessible(client: TestClient) -> None:
    """It has a language, a title, a main part, one heading, and scales on a small screen."""
    elements = _Page(client.get("/").text).elements
    tags = [tag for tag, _ in elements]
    assert ("html", {"lang": "en"}) in elements
    for tag in ("title", "main", "h1"):
        assert tags.count(tag) == 1
    [viewport] = [found for tag, found in elements if found.get("name") == "viewport"]
    assert viewport["content"] == "width=device-width, initial-scale=1"


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_colours_have_enough_contrast(client: TestClient) -> None:
    """Text and links have a contrast of 4.5 or more in the light and in the dark (WCAG AA)."""
    styles = re.findall(r"--(\w+): (#[0-9a-f]{6})", client.get("/").text)
    assert len(styles) == 8
    for colours in (dict(styles[:4]), dict(styles[4:])):
        below = _luminance(colours.pop("back"))
        for colour in colours.values():
            lighter, darker = sorted((below, _luminance(colour)), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, colour


def test_head_of_the_page_and_of_the_list(client: TestClient) -> None:
    """HEAD has the status and the headers of GET, without a body."""
    for path in ("/", "/health"):
        get, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers == get.headers


def test_health_links_both_checks(client: TestClient, database: Path) -> None:
    """/health names both checks, each of which answers; it does not use the database."""
    database.rename(database.with_name("away.db"))
    answer = client.get("/health")
    database.with_name("away.db").rename(database)
    assert answer.headers["cache-control"] == "no-store"
    checks = answer.json()["checks"]
    assert checks == {"live": "/health/live", "ready": "/health/ready"}
    assert [client.get(path).status_code for path in checks.values()] == [200, 200]


def test_the_page_shares_the_result_of_the_readiness_check(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page and /health/ready together check the database once per interval."""
    checked = []
    check = health.check_database

    def counting(*arguments: object) -> health.Health:
        checked.append(arguments)
        return check(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(health, "check_database", counting)
    with TestClient(create_app(database, encryption_key=KEY)) as client:
        for path in ("/", "/health/ready", "/", "/health"):
            assert client.get(path).status_code == 200
    assert len(checked) == 1
