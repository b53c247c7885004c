"""The page of the rules says what the code says."""

from __future__ import annotations

import re

from click.testing import CliRunner

from nextcloud_mcp_server.authoring.lint.rules import RULES
from nextcloud_mcp_server.cli.db.lint import lint
from tests.support import lint_page


def test_the_page_has_every_rule() -> None:
    """Its tables are made of the rules, word for word."""
    page = lint_page.PAGE.read_text("utf-8")
    assert lint_page.render(page) == page, "python -m tests.support.lint_page"
    assert [*re.findall(r"^\| `([a-z][a-z-]+)` \|", page, re.MULTILINE)] == [
        *[name for name, rule in RULES.items() if rule.refuses],
        *[name for name, rule in RULES.items() if not rule.refuses],
    ]


def test_the_page_has_every_option() -> None:
    """Each option of the command that is its own is explained, and no other is."""
    page = lint_page.PAGE.read_text("utf-8")
    explained = set(re.findall(r"^\| `(--[a-z]+)", page, re.MULTILINE))
    own = {name for option in lint.params for name in option.opts if name.startswith("--")}
    assert explained == own - {"--json", "--database-path", "--database-url"}
    assert CliRunner().invoke(lint, ["--nonsense"]).exit_code == 2


def test_every_rule_reads_as_sentences() -> None:
    """What is wrong and what to do are sentences; a remedy may end with the command to type."""
    for rule in RULES.values():
        assert rule.what.endswith(".")
        assert rule.remedy.endswith(".") or "nextcloud-mcp-server db " in rule.remedy
