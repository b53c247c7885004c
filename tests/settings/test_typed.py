"""A value that a shell would have changed is refused, and no database of that name is made."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    "{}/#{{name}}.db": r"contains #\{, which",
    "{}/$1.db": r"contains \$1, which",
    "{}/$@": r"contains \$@, which",
    "%DATA%/{}": "contains %DATA%, which nothing has replaced",
    "%(here)s/{}": r"contains %\(here\)s, which",
    "%h/{}": "contains %h, which",
    "/data/<name>.db": "contains <name>, which",
    "<path to {}>": "contains <path to [^>]*>, which",
    "\u00ab{}\u00bb": "is in quotation marks",
    "\u201e{}\u201c": "is in quotation marks",
    "/srv/'{}'": "is in quotation marks",
    "NAME={}": "begins with NAME=, which is no part of a path",
    "export TOKEN_STORAGE_DB={}": "begins with export TOKEN_STORAGE_DB=, which",
    "TOKEN_STORAGE_DB: {}": "begins with TOKEN_STORAGE_DB:, which",
    "database=/srv{}": "begins with database=, which",
    "={}": "begins with =, which",
    "{};": "ends with ;",
    "{},": "ends with ,",
    "{} # the tokens": "has a comment in it",
    "/srv/ {}": "has a name in it that begins or ends with a blank",
    "\ufeff{}": r"contains the invisible character U\+FEFF",
    "{}\u200b": r"contains the invisible character U\+200B",
    "/srv/\u2060{}": r"contains the invisible character U\+2060",
    "/srv/\u00ad{}": r"contains the invisible character U\+00AD",
    "{}\u00a0": r"contains the invisible character U\+00A0",
    "\u3000{}": r"contains the invisible character U\+3000",
    "{}\x00": r"contains the invisible character U\+0000",
    "\x1b[0m{}": r"contains the invisible character U\+001B",
    "/srv/a\u200d{}": r"contains the invisible character U\+200D",
    "\udcef\udcbb\udcbf{}": r"contains the invisible character U\+FEFF",
    "/srv/\ufffd{}": r"contains U\+FFFD, which stands for",
    "C:\\data\\{}": "begins with C:, a drive of Windows",
    "C:/data/{}": "begins with C:, a drive of Windows",
    "/srv/my\\ {}": "contains a backslash",
    "{}/": "ends with a slash",
    "null": "is null, which stands for no value",
    "None": "is None, which stands for no value",
    "sqlite:{}": "begins with sqlite:, and a URL has three slashes",
    "SQLite+aiosqlite:{}": r"begins with SQLite\+aiosqlite:, and a URL",
    "{}?timeout=5": r"contains \?timeout=, a parameter of a URL",
    "db/{{env}}/{}": r"contains \{env\}, which nothing has replaced",
    "{{path}}": r"contains \{path\}, which",
    "{{env}}.db": r"contains \{env\}, which",
    "@path@": "contains @path@, which",
    "@DATA@/{}": "contains @DATA@, which",
    "[path]": r"contains \[path\], which",
    "/srv/[your folder]/{}": r"contains \[your folder\], which",
    "__PATH__": "contains __PATH__, which",
    "/srv/__NAME__.db": "contains __NAME__, which",
    "YOUR_PATH": "contains YOUR_PATH, which",
    "/srv/YOUR-FOLDER/t.db": "contains YOUR-FOLDER, which",
    "changeme": "is changeme, which is no path",
    "CHANGE_ME": "is CHANGE_ME, which is no path",
    "true": "is true, which is no path",
    "False": "is False, which is no path",
    "yes": "is yes, which",
    "no": "is no, which",
    "-": "is -, which is no path",
    "--path={}": "begins with --path, as an option does",
    "--": "begins with --, as an option does",
    "...": r"contains \.\.\., which",
    "/srv/.../t.db": r"contains \.\.\., which",
    "*.db": r"contains \*, which",
    "!ref db": "contains !ref, which",
    "vault:secret/db#path": "contains vault:, which",
    "/srv/t.db|cat": r"contains \|, which is for a shell",
    "&t.db": "contains &, which is for a shell",
    "/srv/t.db#comment": "has a comment in it",
    "/srv/a\u00a0{}": r"contains the no-break space U\+00A0",
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
    with refuses("bad-path", f"^{variable} (?:{what})") as caught:
        load_settings({variable: form.format(path)})
    remedy = caught.value.remedy
    assert remedy.startswith(f"Set {variable} to the path as it is")
    # -d names the database.
    assert ("-d" in remedy) == (variable == "TOKEN_STORAGE_DB")


@pytest.mark.parametrize(
    "url",
    [
        *('"sqlite:////data/t.db"', "'sqlite:////data/t.db'", "sqlite:////data/t.db\r"),
        *(" sqlite:////data/t.db", "sqlite:////data/t.db ", "sqlite:////data/$NAME.db"),
        *("sqlite:///${DATA}/t.db", 'sqlite:////data/t.db"', "$DATABASE"),
        *("\ufeffsqlite:////data/t.db", "sqlite:////data/t.db\u200b", "sqlite:////data/t.db;"),
        *("DATABASE_URL=sqlite:////data/t.db", "sqlite:////data/t.db # tokens"),
        *("sqlite:///%DATA%/t.db", "sqlite:////<path>", "sqlite:///C:/data/t.db"),
        *("sqlite:///C:\\data\\t.db", "sqlite:////data/", "sqlite:////data/%FF.db"),
        *("sqlite:////data/t.db%0D", "sqlite:////data/t.db%0A", "sqlite:///%22/data/t.db%22"),
        *("sqlite:////data/%22t.db%22", "sqlite:////data/%24HOME", "sqlite:////data/%20t.db%20"),
        *("sqlite:////data/%20t.db", "sqlite:///%EF%BB%BF/data/t.db", "sqlite:////data/%25HOME%25"),
        *("sqlite:////data/t.db%E2%80%8B", "sqlite:////data/t.db%3B", "sqlite:////data/a%5C%20b"),
        *("sqlite:///{path}", "sqlite:///@path@", "sqlite:///*.db", "sqlite:///t.db#x"),
        *("sqlite:////data/%zz.db", "sqlite:////C:/t.db", "sqlite:t.db", "sqlite:/data/t.db"),
        *("sqlite:///__PATH__", "sqlite:////data/a%C2%A0b.db", "sqlite:////data/%7Bpath%7D"),
        *("sqlite:////data/%3Cpath%3E", "sqlite:////data%2F", "sqlite:////data/t.db%00"),
    ],
    ids=ascii,
)
@pytest.mark.parametrize("variable", ["DATABASE_URL", "TOKEN_STORAGE_DB"])
def test_so_is_a_url(url: str, variable: str) -> None:
    """An escape is what it stands for, and the remedy names the variable."""
    with refuses("bad-path", f"^(?:{variable} |The path|'.*' is the path of a folder)") as caught:
        load_settings({variable: url})
    assert variable in caught.value.remedy


@pytest.mark.parametrize("uri", ["file:t.db", "file:///tmp/x.db", "file:t.db?mode=ro"])
def test_an_sqlite_uri_gets_one_answer(uri: str) -> None:
    """With slashes it is no database of another engine."""
    with refuses("bad-path", "is an SQLite URI; a plain path is needed"):
        load_settings({"TOKEN_STORAGE_DB": uri})
    with refuses("bad-path", "is an SQLite URI; a plain path is needed"):
        load_settings({}, database=uri)


def test_what_is_typed_stays_literal() -> None:
    """With -d and -u every name is possible, but not that of a folder and no empty one."""
    for name in ("$HOME.db", "t.db;", "\ufeff.db", "%A%", "<a>", "a\\ b.db", "C:\\t.db"):
        assert load_settings({}, database=f"/data/{name}").database == Path(f"/data/{name}")
    assert load_settings({}, database="sqlite:////data/%24x").database == Path("/data/$x")
    for folder in ("/data/", "data/.", ".", "..", "/", "sqlite:////data/", "sqlite:////data%2F"):
        with refuses("bad-path", "is the path of a folder, not of a file"):
            load_settings({}, database=folder)
    for empty in ("", " ", "sqlite:///"):
        with refuses("bad-path", "is empty"):
            load_settings({}, database=empty)


@pytest.mark.parametrize("blank", [" ", "\r", ";", " ; \n"], ids=ascii)
def test_a_list_without_a_key_is_no_unset_variable(blank: str) -> None:
    """A new key would be made, and what the old one encrypts would be lost."""
    with refuses("malformed-key", "^TOKEN_ENCRYPTION_KEY is set, and there is no key in it"):
        load_settings({"TOKEN_ENCRYPTION_KEY": blank})


@pytest.mark.parametrize(
    "name",
    [
        *("backup(1).db", "tokens@home.db", "a@b@c.db", "a+b.db", "user's"),
        "data/v1.2/t-\u00e9.db",
        *("a&b.db", "a__b.db", "__init__.db", "x?y.db", "tokens[1].db", "a...db", "a#b.db"),
        "-t.db",
        *("your_tokens.db", "yes.db", "true/t.db", "prod:t.db", "!t.db", "100%zz.db"),
        "a\u3000b.db",
        *("no-such.db", "tokens-{env}.db", "[1].db", "~t.db", "a,b.db", "t.db~", "sqlite.db"),
        *("a$.db", "it's.db", "a b.db", "50%.db", "a{b}.db", "a=b.db", "a;b.db", "#1.db", "a<b.db"),
        *(
            "\u00e4 \u00e9.db",
            "\u0645\u06cc\u200c\u062e.db",
            "\U0001f469\u200d\U0001f4bb.db",
            "50%C3.db",
        ),
    ],
    ids=ascii,
)
def test_a_name_may_have_such_characters(name: str) -> None:
    """Only what a shell would have changed is refused."""
    assert load_settings({"TOKEN_STORAGE_DB": f"/data/{name}"}).database == Path(f"/data/{name}")
    url = f"sqlite:////data/{quote(name)}"
    assert load_settings({"DATABASE_URL": url}).database == Path(f"/data/{name}")


@given(
    st.from_regex(
        r"[A-Za-z0-9\u00e0-\u00f6][A-Za-z0-9\u00e0-\u00f6 ()+&._-]{0,20}\.db", fullmatch=True
    )
)
def test_an_ordinary_name_stays_usable(name: str) -> None:
    """Letters, digits, blanks inside, parentheses and the like are what people name files with."""
    read = load_settings({"TOKEN_STORAGE_DB": f"/data/{name}", "TOKEN_ENCRYPTION_KEY_FILE": name})
    assert read.database == Path(f"/data/{name}")
    assert read.key_file == Path.cwd() / name


def test_a_database_of_that_name_is_used(tmp_path: Path) -> None:
    """A release before may have made it; -d takes every name as it is."""
    path = tmp_path / "$NAME.db"
    assert load_settings({}, database=path).database == path
    at(path)
    assert load_settings({"TOKEN_STORAGE_DB": str(path)}).database == path
    for name in ("$NAME.db", "%24NAME.db"):
        url = f"sqlite:///{tmp_path}/{name}"
        assert load_settings({"DATABASE_URL": url}).database == path


def test_no_database_of_that_name_is_made(tmp_path: Path) -> None:
    """The commands and the server leave the folder empty."""
    meant = (f'"{tmp_path}/t.db"', f"{tmp_path}/t.db\r", "$NAME.db", "new/")
    tried = [(["db", "current"], value) for value in meant]
    # Slower, and they read the setting in the same place.
    tried += [(["db", "upgrade"], "$NAME.db"), (["run", "--port", "0"], "new/")]
    for arguments, value in tried:
        done = process(*arguments, cwd=tmp_path, environ={"TOKEN_STORAGE_DB": value})
        assert (done.status, "[bad-path]" in done.err) == (1, True)
    assert list(tmp_path.iterdir()) == []
