"""The page of the rules matches the code."""

from __future__ import annotations

import re

from nextcloud_mcp_server.authoring.lint.rules import RULES
from nextcloud_mcp_server.cli.db.lint import lint
from tests.support import lint_page


def test_the_page_has_every_rule() -> None:
    """The tables of the page are generated from the rules."""
    page = lint_page.PAGE.read_text("utf-8")
    assert lint_page.render(page) == page, "python -m tests.support.lint_page"
    assert [*re.findall(r"^\| `([a-z][a-z-]+)` \|", page, re.MULTILINE)] == [
        *[name for name, rule in RULES.items() if rule.refuses],
        *[name for name, rule in RULES.items() if not rule.refuses],
    ]


def test_the_page_has_every_option() -> None:
    """The page describes each option of the command, and no other."""
    page = lint_page.PAGE.read_text("utf-8")
    explained = set(re.findall(r"^\| `(--[a-z]+)", page, re.MULTILINE))
    own = {name for option in lint.params for name in option.opts if name.startswith("--")}
    assert explained == own - {"--json", "--database-path", "--database-url"}


def test_every_rule_reads_as_sentences() -> None:
    """Problem and remedy of each rule are sentences; a remedy may end with a command."""
    for rule in RULES.values():
        assert rule.what.endswith(".")
        assert rule.remedy.endswith(".") or "nextcloud-mcp-server db " in rule.remedy
