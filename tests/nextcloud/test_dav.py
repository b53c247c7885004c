"""The XML of WebDAV, with what other programs have stored in it."""

from __future__ import annotations

import pytest

from nextcloud_mcp_server.nextcloud.dav import parse


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("&#65;&#x41;", "AA"),
        ("&#11;", "\ufffd"),
        ("&#xd800;", "\ufffd"),
        ("&#x110000;", "\ufffd"),
        ("&#x0000000b;", "\ufffd"),
    ],
)
def test_a_reference_to_no_character_of_xml_is_replaced(reference: str, text: str) -> None:
    """Otherwise one odd name would hide everything beside it."""
    assert parse(f"<a>x{reference}&#11;y</a>".encode()).text == f"x{text}\ufffdy"
