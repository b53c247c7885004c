"""The generated parts of the reference are complete."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import generated_pages
import pytest

from nextcloud_mcp_server import settings as settings_module
from nextcloud_mcp_server.cli.db.group import db_commands
from nextcloud_mcp_server.migrate.alembic_commands import listing
from nextcloud_mcp_server.schema.history import load_history
from nextcloud_mcp_server.tools.server import TOOLS
from tests.docs.conftest import DOCS


def test_every_db_command_has_a_heading_and_all_of_its_options() -> None:
    """Each command of ``db --help`` has a section with each option and argument."""
    parts = generated_pages.commands().split("## ")
    sections = {title: text for title, _, text in (part.partition("\n") for part in parts)}
    for name, command in db_commands.commands.items():
        for parameter in command.params:
            shared = parameter.name in ("database_path", "database_url", "json")
            where = sections["Options of the db commands" if shared else f"db {name}"]
            for spelling in parameter.opts:
                assert (spelling if spelling.startswith("-") else spelling.upper()) in where or (
                    parameter.metavar and parameter.metavar in where
                ), f"{name} {spelling}"


def test_the_table_of_commands_has_only_existing_commands() -> None:
    """The table above the generated part, written by hand, names existing commands once."""
    text = (DOCS / "reference" / "commands.md").read_text("utf-8")
    text, _, _ = text.partition("<!-- generated: ")
    table = [line for line in text.splitlines() if line.startswith("|")]
    named = re.findall(r"`(\w+)`", "".join(table))
    assert len(named) == len(set(named)) > 10
    assert set(named) <= set(db_commands.commands)


def test_every_variable_is_documented() -> None:
    """The settings page names what ``settings`` reads."""
    read = generated_pages.variables()
    assert {"DATABASE_URL", "TOKEN_STORAGE_DB", "TOKEN_ENCRYPTION_KEY"} < read
    page = generated_pages.settings()
    assert [name for name in read if f"``{name}``" not in page] == []


def test_an_undocumented_variable_fails_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that ``settings`` reads without a description is an error."""
    text = str(settings_module.__doc__)
    monkeypatch.setattr(settings_module, "__doc__", text.replace("NO_COLOR", "NO_COLOUR"))
    with pytest.raises(ValueError, match="NO_COLOR"):
        generated_pages.settings()


def test_every_revision_is_listed_with_its_changes_and_losses() -> None:
    """The page has id, date, title, changes, and the loss that ``db downgrade`` shows."""
    page = generated_pages.revisions()
    for revision in listing(load_history()):
        assert f"## {revision.id}: {revision.title}\n\n{revision.date}, " in page
        assert f"**A downgrade loses:** {revision.loses}" in page
    assert "adds table `migration_journal`" in page
    assert "adds column `oauth_sessions.nonce`" in page
    assert "drops table `registered_webhooks`" in page
    assert "**Changes:** rows only." in page


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_the_stored_text_is_current(page: Path) -> None:
    """A page in the repository holds what its function returns now."""
    text = page.read_text("utf-8")
    if generated_pages.generate(text) != text:
        pytest.fail(f"{page.name} is out of date: python docs/_ext/generated_pages.py")


def test_an_unknown_or_open_mark_is_an_error() -> None:
    """A misspelt mark, or one without its end, fails instead of leaving a gap in the page."""
    assert generated_pages.generate("as it is\n") == "as it is\n"
    with pytest.raises(KeyError, match="comands"):
        generated_pages.generate("<!-- generated: comands -->\n<!-- end of generated -->\n")
    with pytest.raises(ValueError, match="needs a line"):
        generated_pages.generate("<!-- generated: commands -->\n")


def test_every_generator_is_used() -> None:
    """Each generator has a page."""
    pages = [path.read_text("utf-8") for path in DOCS.rglob("*.md")]
    asked = {name for text in pages for name in re.findall(r"<!-- generated: (\w+) -->", text)}
    assert asked == set(generated_pages.GENERATED)


def test_every_tool_has_a_section_with_its_scope_and_arguments() -> None:
    """Each tool of MCP is described, with each argument."""
    parts = generated_pages.tools().split("## ")
    sections = {title: text for title, _, text in (part.partition("\n") for part in parts)}
    for tool in TOOLS:
        section = sections[tool.name]
        assert str(tool.scope or "no scope") in section
        for name in [*inspect.signature(tool.function).parameters][1:]:
            assert f"| `{name}`" in section
