"""What the reference takes from the code: nothing is left out, and nothing can disagree."""

from __future__ import annotations

import re

import generated_pages
import pytest

from nextcloud_mcp_server import settings as settings_module
from nextcloud_mcp_server.cli.db.group import db_commands
from nextcloud_mcp_server.migrate.alembic_commands import listing
from nextcloud_mcp_server.schema.history import load_history
from tests.docs.conftest import DOCS


def test_every_db_command_has_a_heading_and_all_of_its_options() -> None:
    """Whatever ``db --help`` lists can be looked up, with each option and argument."""
    parts = generated_pages.commands().split("## ")
    sections = {title: text for title, _, text in (part.partition("\n") for part in parts)}
    for name, command in db_commands.commands.items():
        for parameter in command.params:
            shared = parameter.name in ("database_path", "database_url", "json")
            where = sections["Options of every db command" if shared else f"db {name}"]
            for spelling in parameter.opts:
                assert (spelling if spelling.startswith("-") else spelling.upper()) in where or (
                    parameter.metavar and parameter.metavar in where
                ), f"{name} {spelling}"


def test_the_table_of_commands_names_none_that_is_not_there() -> None:
    """The table above the generated part is written by hand; it sorts commands by what they do."""
    text = (DOCS / "reference" / "commands.md").read_text("utf-8")
    table = [line for line in text.splitlines() if line.startswith("|")]
    named = re.findall(r"`(\w+)`", "".join(table))
    assert len(named) == len(set(named)) > 10
    assert set(named) <= set(db_commands.commands)


def test_every_variable_is_told() -> None:
    """The settings page names what ``settings.py`` reads."""
    read = generated_pages.variables()
    assert {"DATABASE_URL", "TOKEN_STORAGE_DB", "TOKEN_ENCRYPTION_KEY"} < read
    told = generated_pages.settings()
    assert [name for name in read if f"``{name}``" not in told] == []


def test_a_variable_that_is_read_and_not_told_stops_the_build(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A setting that somebody adds to the code alone is found out."""
    text = str(settings_module.__doc__)
    monkeypatch.setattr(settings_module, "__doc__", text.replace("NO_COLOR", "NO_COLOUR"))
    with pytest.raises(ValueError, match="NO_COLOR"):
        generated_pages.settings()


def test_every_revision_is_told_with_its_changes_and_losses() -> None:
    """Id, date, title, and the words that ``db downgrade`` says before it asks."""
    told = generated_pages.revisions()
    for revision in listing(load_history()):
        assert f"## {revision.id}: {revision.title}\n\n{revision.date}, " in told
        assert f"**A downgrade loses:** {revision.loses}" in told
    assert "adds table `migration_journal`" in told
    assert "adds column `oauth_sessions.nonce`" in told
    assert "drops table `registered_webhooks`" in told
    assert "**Changes:** rows only." in told


def test_a_page_can_ask_only_for_what_is_generated() -> None:
    """A misspelt mark is no silent gap in a page."""
    assert generated_pages.generate("as it is\n") == "as it is\n"
    with pytest.raises(KeyError, match="comands"):
        generated_pages.generate("<!-- generated: comands -->\n")


def test_everything_generated_is_asked_for() -> None:
    """Each generator has its page."""
    pages = [path.read_text("utf-8") for path in DOCS.rglob("*.md")]
    asked = {name for text in pages for name in re.findall(r"<!-- generated: (\w+) -->", text)}
    assert asked == set(generated_pages.GENERATED)
