"""Every value of a page is escaped, and its headers allow only what is ours."""

from __future__ import annotations

import base64
import hashlib
import re

from nextcloud_mcp_server.pages.frame import moving_on, page, problem
from nextcloud_mcp_server.pages.html import Html, html, joined

HOSTILE = "<script>alert(1)</script>\"'&{title}"


def test_values_are_escaped() -> None:
    """Text is escaped in tags and attributes, HTML is not, and a value is no template."""
    text = html('<a title="{a}">{a}</a>{b}', a=HOSTILE, b=Html("<b>"))
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;{title}") == 2
    assert text.endswith("<b>")
    assert joined([Html("<b>"), Html("<i>")]) == "<b>\n<i>"


def test_a_page_allows_only_its_own_style_and_script() -> None:
    """The policy has the hash of the style, and nothing inline is run."""
    shown = page(HOSTILE, Html("<p>body</p>"), waits=True, state="waiting")
    text = bytes(shown.body).decode()
    [style] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = shown.headers["Content-Security-Policy"]
    assert f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert re.findall(r"<script[^>]*>", text) == ['<script src="/static/wait.js" defer>']
    assert "alert(1)</script>" not in text
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in text
    assert 'lang="en"' in text
    assert "width=device-width" in text


def test_an_error_says_what_to_do() -> None:
    """A page about an error has its status, the message and the remedy."""
    shown = problem("Title", "What happened.", "What to do.", status=403)
    assert shown.status_code == 403
    assert b"What happened." in shown.body
    assert b"What to do." in shown.body


def test_a_target_is_quoted() -> None:
    """The address of a refresh cannot leave its attribute."""
    assert moving_on('https://x/"><script>') == (
        '<meta http-equiv="refresh" content="1;url=https://x/&quot;&gt;&lt;script&gt;">'
    )
