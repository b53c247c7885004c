"""The built site, as a reader finds it."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from nextcloud_mcp_server.cli.db.group import db_commands
from nextcloud_mcp_server.errors import CODES
from nextcloud_mcp_server.schema.history import load_history
from tests.docs.conftest import DOCS, ROOT, build


def _text(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text("utf-8")))


def test_every_command_error_setting_and_revision_has_its_place(site: Path) -> None:
    """What a person meets at night can be looked up on the page that its name promises."""
    commands = _text(site / "reference" / "commands.html")
    for name in db_commands.commands:
        assert f"nextcloud-mcp-server db {name} [OPTIONS]" in commands
    errors = _text(site / "errors.html")
    assert [code for code in CODES if code not in errors] == []
    settings = _text(site / "reference" / "settings.html")
    assert "TOKEN_STORAGE_LOCK_TIMEOUT" in settings
    revisions = (site / "reference" / "revisions.html").read_text("utf-8")
    ids = load_history().revisions
    assert [r for r in ids if f'id="revision-{r}"' not in revisions] == []


def test_every_page_is_built_and_listed(site: Path) -> None:
    """No page is an orphan: the menu of the landing page leads to all of them."""
    menu = (site / "index.html").read_text("utf-8")
    for source in DOCS.rglob("*.md"):
        page = source.relative_to(DOCS).with_suffix(".html")
        assert (site / page).is_file()
        assert page.name == "index.html" or f'href="{page.as_posix()}"' in menu, page


def test_reading_it_needs_no_network(site: Path) -> None:
    """No script, style, font or image comes from anywhere else: it is read on a closed network."""
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//', text), page
        assert not re.findall(r'<link[^>]+href="(?:https?:)?//', text), page
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text("utf-8"))


def test_the_drawing_can_be_read_by_everybody(site: Path) -> None:
    """It has a title and a description, colours for a dark page, and needs nothing from outside."""
    (drawing,) = site.rglob("startup-sequence.svg")
    text = drawing.read_text("utf-8")
    assert 'role="img" aria-labelledby="title desc"' in text
    assert "<title" in text
    assert "<desc" in text
    assert "prefers-color-scheme: dark" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_a_page_with_a_fault_is_refused(tmp_path: Path) -> None:
    """The build is strict: a link, a heading or a name that is not there stops it."""
    pytest.importorskip("sphinx", reason="the group `docs` is not installed")
    (tmp_path / "index.md").write_text(
        "# Here\n\n[good](#here) [page](nowhere.md) [heading](#no-heading)\n\n"
        "```{eval-rst}\n:py:class:`nextcloud_mcp_server.Nothing`\n```\n",
        "utf-8",
    )
    status, told = build(tmp_path, tmp_path / "target", ("-D", "html_static_path="))
    assert status != 0
    for missing in ("nowhere.md", "no-heading", "nextcloud_mcp_server.Nothing"):
        assert missing in told
    assert told.count("WARNING") == 3


def test_the_links_of_the_readme_lead_somewhere() -> None:
    """It is no page of the site, so the strict build does not look at it."""
    text = (ROOT / "README.md").read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", text)
    assert "docs/how-to/troubleshoot.md" in links
    assert [link for link in links if not (ROOT / link).is_file()] == []
