"""The address to listen on is a name or an address, and nothing that surrounds one."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.settings.process import listen_address
from tests.cli.places import process
from tests.support.errors import refused

WRONG = {
    '"127.0.0.1"': "is in quotation marks",
    "'::1'": "is in quotation marks",
    "$HOST": "contains $HOST, which nothing has replaced",
    "${HOST}": "contains ${HOST}, which nothing has replaced",
    "<host>": "contains <host>, which nothing has replaced",
    "{host}": "contains {host}, which nothing has replaced",
    "127.0.0.1:80": "ends with the port 80",
    "localhost:8000": "ends with the port 8000",
    "[::1]:8000": "ends with the port 8000",
    "http://127.0.0.1": "is a URL, not an address",
    "http://127.0.0.1:8000/": "is a URL, not an address",
    "*": "is *, which is no address",
    "127.0.0.1/8": "contains a blank or a slash",
    "127.0.0.1 ::1": "contains a blank or a slash",
    "Zm9vYmFyYmF6cXV4Zm9v-mFyYmF6_XV4MTIzNDU2Nzg=": "holds an encryption key, not an address",
}


@pytest.mark.parametrize(("host", "what"), WRONG.items())
def test_what_is_no_host_is_refused_by_name(host: str, what: str) -> None:
    """The error names the variable or the option, whichever was used."""
    error = refused(lambda: listen_address({"NEXTCLOUD_MCP_HOST": host}))
    assert (error.code, error.exit_status) == ("bad-input", 1)
    assert error.message == f"NEXTCLOUD_MCP_HOST {what}."
    assert "NEXTCLOUD_MCP_PORT" in error.remedy
    error = refused(lambda: listen_address({}, host=host))
    assert (error.code, error.exit_status) == ("bad-input", 2)
    assert error.message == f"--host {what}."
    assert "--port" in error.remedy


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *(("[::1]", "::1"), ("[::]", "::"), ("::1", "::1"), ("fe80::1%eth0", "fe80::1%eth0")),
        *(("::80", "::80"), ("2001:db8::80", "2001:db8::80"), ("192.0.2.1", "192.0.2.1")),
        *(("localhost", "localhost"), ("my-host.example.org", "my-host.example.org")),
        *(("a_b", "a_b"), ("true", "true"), ("b\u00fccher.example", "b\u00fccher.example")),
        *((" 127.0.0.1\n", "127.0.0.1"), ("::ffff:127.0.0.1", "::ffff:127.0.0.1")),
    ],
    ids=ascii,
)
def test_a_name_or_an_address_is_used(host: str, expected: str) -> None:
    """Blanks around it and the brackets of a URL are removed."""
    assert listen_address({"NEXTCLOUD_MCP_HOST": host})[0] == expected
    assert listen_address({}, host=host)[0] == expected


def test_the_server_does_not_start_on_what_is_no_host(tmp_path: Path) -> None:
    """The command fails before a database is created."""
    environ = {"TOKEN_STORAGE_DB": "t.db", "NEXTCLOUD_MCP_HOST": "127.0.0.1:80"}
    done = process("run", "--port", "0", cwd=tmp_path, environ=environ)
    assert (done.status, done.err.count("NEXTCLOUD_MCP_HOST ends with the port 80")) == (1, 1)
    done = process("run", "--port", "0", "--host", "$HOST", cwd=tmp_path, environ=environ)
    assert done.status == 2
    assert "--host contains $HOST" in done.err
    assert list(tmp_path.iterdir()) == []
