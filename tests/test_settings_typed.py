"""A value that a shell would have changed is refused, and no database of that name is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.settings import load_settings
from tests.cli.places import at, process
from tests.support.errors import refuses

#: What is around or in a path, and what the message says.
LEFT = {
    '"{}"': "is in quotation marks",
    "'{}'": "is in quotation marks",
    "{}'": "is in quotation marks",
    "\u201c{}\u201d": "is in quotation marks",
    "{}\r": "has a carriage return in it",
    "{}\n": "begins or ends with a line break",
    " {}": "begins or ends with a blank",
    "{}\t": "begins or ends with a blank",
    "$DATA/{}": r"contains \$DATA, which nothing has replaced",
    "{}/${{NAME}}.db": r"contains \$\{NAME\}, which",
    "{}/${{NAME:-x}}.db": r"contains \$\{NAME, which",
    "$(pwd){}": r"contains \$\(, which",
    "{}/{{{{ name }}}}.db": r"contains \{\{, which",
}


@pytest.mark.parametrize(("form", "what"), LEFT.items(), ids=map(ascii, LEFT))
@pytest.mark.parametrize(
    ("variable", "path"),
    [
        ("TOKEN_STORAGE_DB", "/data/tokens.db"),
        ("TOKEN_STORAGE_DB", "tokens.db"),
        ("TOKEN_ENCRYPTION_KEY_FILE", "/data/key"),
    ],
)
def test_a_path_that_a_shell_would_have_changed_is_refused(
    form: str, what: str, variable: str, path: str
) -> None:
    """The message says what is wrong with the variable, and the remedy names it."""
    with refuses("bad-path", f"^{variable} {what}") as caught:
        load_settings({variable: form.format(path)})
    assert caught.value.remedy.startswith(f"Set {variable} to the path as it is")


@pytest.mark.parametrize(
    "url",
    [
        *('"sqlite:////data/t.db"', "'sqlite:////data/t.db'", "sqlite:////data/t.db\r"),
        *(" sqlite:////data/t.db", "sqlite:////data/t.db ", "sqlite:////data/$NAME.db"),
        *("sqlite:///${DATA}/t.db", 'sqlite:////data/t.db"', "$DATABASE"),
    ],
    ids=ascii,
)
def test_so_is_a_url(url: str) -> None:
    """The remedy is that of the variable; an escape is what it stands for."""
    with refuses("bad-path") as caught:
        load_settings({"DATABASE_URL": url})
    assert "DATABASE_URL" in caught.value.remedy
    assert load_settings({"DATABASE_URL": "sqlite:////data/%24x"}).database == Path("/data/$x")


@pytest.mark.parametrize("blank", [" ", "\r", ";", " ; \n"], ids=ascii)
def test_a_list_without_a_key_is_no_unset_variable(blank: str) -> None:
    """A new key would be made, and what the old one encrypts would be lost."""
    with refuses("malformed-key", "^TOKEN_ENCRYPTION_KEY is set, and there is no key in it"):
        load_settings({"TOKEN_ENCRYPTION_KEY": blank})


@pytest.mark.parametrize("name", ["a$.db", "it's.db", "a b.db", "50%.db", "a{b}.db", "$5.db"])
def test_a_name_may_have_such_characters(name: str) -> None:
    """Only what a shell would have changed is refused."""
    assert load_settings({"TOKEN_STORAGE_DB": f"/data/{name}"}).database == Path(f"/data/{name}")


def test_a_database_of_that_name_is_used(tmp_path: Path) -> None:
    """A release before may have made it; -d takes every name as it is."""
    path = tmp_path / "$NAME.db"
    assert load_settings({}, database=path).database == path
    at(path)
    assert load_settings({"TOKEN_STORAGE_DB": str(path)}).database == path


def test_no_database_of_that_name_is_made(tmp_path: Path) -> None:
    """The commands and the server leave the folder empty."""
    for arguments in (("db", "upgrade"), ("db", "current"), ("run", "--port", "0")):
        for value in (f'"{tmp_path}/t.db"', f"{tmp_path}/t.db\r", "$NAME.db"):
            done = process(*arguments, cwd=tmp_path, environ={"TOKEN_STORAGE_DB": value})
            assert (done.status, "[bad-path]" in done.err) == (1, True)
    assert list(tmp_path.iterdir()) == []
