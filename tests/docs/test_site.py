"""The built site is complete and self-contained."""

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
    """Each command, error, setting and revision is on its page."""
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
    """Each page is built and in the menu of the index page."""
    menu = (site / "index.html").read_text("utf-8")
    for source in DOCS.rglob("*.md"):
        page = source.relative_to(DOCS).with_suffix(".html")
        assert (site / page).is_file()
        assert page.name == "index.html" or f'href="{page.as_posix()}"' in menu, page


def test_reading_it_needs_no_network(site: Path) -> None:
    """No script, style, font or image is loaded from another host."""
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//', text), page
        assert not re.findall(r'<link[^>]+href="(?:https?:)?//', text), page
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text("utf-8"))


def test_the_drawing_can_be_read_by_everybody(site: Path) -> None:
    """The drawing has a title, a description and dark colours, and loads nothing."""
    (drawing,) = site.rglob("startup-sequence.svg")
    text = drawing.read_text("utf-8")
    assert 'role="img" aria-labelledby="title desc"' in text
    assert "<title" in text
    assert "<desc" in text
    assert "prefers-color-scheme: dark" in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_a_page_with_an_error_fails_the_build(tmp_path: Path) -> None:
    """A missing link, heading or name fails the build."""
    pytest.importorskip("sphinx", reason="the group `docs` is not installed")
    (tmp_path / "index.md").write_text(
        "# Here\n\n[good](#here) [page](nowhere.md) [heading](#no-heading)\n\n"
        "```{eval-rst}\n:py:class:`nextcloud_mcp_server.Nothing`\n```\n",
        "utf-8",
    )
    status, output = build(tmp_path, tmp_path / "target", ("-D", "html_static_path="))
    assert status != 0
    for missing in ("nowhere.md", "no-heading", "nextcloud_mcp_server.Nothing"):
        assert missing in output
    assert output.count("WARNING") == 3


def test_the_links_of_the_readme_lead_somewhere() -> None:
    """The README is not part of the site, so its links are checked here."""
    text = (ROOT / "README.md").read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", text)
    assert "docs/how-to/troubleshoot.md" in links
    assert [link for link in links if not (ROOT / link).is_file()] == []
