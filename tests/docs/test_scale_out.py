"""The guide to PostgreSQL: its shell lines and its SQL are typed on a real server."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
import yaml

from nextcloud_mcp_server.cli.db.group import db_commands
from nextcloud_mcp_server.schema.history import load_history
from tests.docs.conftest import DOCS, ROOT
from tests.support.postgresql import QUICK, Server, running
from tests.wheel.documents import blocks

PAGE: Final = DOCS / "how-to" / "scale-out.md"
EXAMPLE: Final = ROOT / "examples" / "scale-out"
HEAD: Final = load_history().head
KEY: Final = "b2xkLW9sZC1vbGQtb2xkLW9sZC1vbGQtb2xkLW9sZC0="

#: Starts three servers at once, kills one, and stops the others.
_SERVERS: Final = """
three_servers() {
    local pids=() number
    for number in 1 2 3; do
        nextcloud-mcp-server --port 0 >"server-$number" 2>&1 &
        pids+=($!)
    done
    for number in 1 2 3; do
        for _ in $(seq 600); do grep -q "listening on" "server-$number" && break; sleep 0.1; done
        grep "listening on" "server-$number" || { cat "server-$number"; return 1; }
    done
    kill -KILL "${pids[0]}"
    wait "${pids[0]}" || true
    for number in 2 3; do
        curl --silent --fail "$(sed -n 's/listening on //p' "server-$number")/health/ready"
    done
    kill -TERM "${pids[@]:1}"
    wait "${pids[@]:1}"
}
"""

#: An old place with a token, before the step that copies it.
_OLD: Final = """
python - <<'PYTHON'
import asyncio
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage

async def grant():
    async with RefreshTokenStorage("tokens.db") as storage:
        await storage.store_refresh_token("alice", "the-refresh-token")

asyncio.run(grant())
PYTHON
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server on a port of this machine that asks the roles of the guide for a password."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {**QUICK, "port": str(port), "listen_addresses": "127.0.0.1"}
    with running(settings=settings) as server:
        rules = server.data / "pg_hba.conf"
        scram = "host all tokens,tokens_owner 127.0.0.1/32 scram-sha-256\n"
        rules.write_text(scram + rules.read_text())
        server.execute("SELECT pg_reload_conf()")
        yield server


@pytest.fixture
def environ(server: Server, tmp_path: Path) -> dict[str, str]:
    """The environment of a person who types: db.example.org is the server."""
    mine = {k: v for k, v in os.environ.items() if not k.startswith(("TOKEN", "DATABASE", "PG"))}
    programs = f"{Path(sys.executable).parent}:{server.programs}:{os.environ['PATH']}"
    address = {"PGHOSTADDR": "127.0.0.1", "PGPORT": server.settings["port"]}
    return {**mine, **address, "PATH": programs, "HOME": str(tmp_path)}


@pytest.fixture(autouse=True)
def _nothing_there(server: Server) -> Iterator[None]:
    yield
    server.execute("DROP DATABASE IF EXISTS tokens WITH (FORCE)")
    for role in ("tokens", "tokens_owner"):
        server.execute(f"DROP ROLE IF EXISTS {role}")


def _bash(text: str, folder: Path, environ: Mapping[str, str], status: int = 0) -> str:
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{text}"],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == status, f"{text}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def _typed(text: str, folder: Path, port: str) -> str:
    """Return a block for this machine, where the server has another port and no TLS."""
    for written, real in (
        ("sslmode=verify-full&sslrootcert=/path/to/ca.crt&", ""),
        ("db.example.org:5432", f"db.example.org:{port}"),
        ("nextcloud-mcp-server --host 0.0.0.0 --port 8000", "three_servers"),
        ("/path/to/", f"{folder}/"),
        ("/app/data/", f"{folder}/"),
    ):
        text = text.replace(written, real)
    if "db copy" in text:
        if "copy" not in db_commands.commands:
            text = re.sub(r"(?m)^.*db copy.*$", "", text)
        text = _OLD + text
    return text


def _languages(language: str) -> list[str]:
    return [block.text for block in blocks(PAGE) if block.language == language]


def _create(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Create the database as the guide says; return an environment that names it."""
    password = folder / "tokens_password"
    password.write_text("it's a-password\n")
    psql = "psql --host=db.example.org --username=postgres --dbname=postgres"
    script = EXAMPLE / "create-database.sql"
    named = {**environ, "TOKENS_PASSWORD_FILE": str(password), "TOKEN_ENCRYPTION_KEY": KEY}
    _bash(f"{psql} --set=ON_ERROR_STOP=1 --file={script}", folder, named)
    passfile = folder / "pgpass"
    port = environ["PGPORT"]
    passfile.write_text(f"*:{port}:tokens:tokens:it's a-password\n*:*:*:tokens_owner:other\n")
    passfile.chmod(0o600)
    return {**named, "DATABASE_URL": f"postgresql://tokens@/tokens?passfile={passfile}"}


def test_every_shell_line_works(server: Server, environ: dict[str, str], tmp_path: Path) -> None:
    """From a file to three servers, a dump and its restoration, one line after the other."""
    shutil.copytree(EXAMPLE, tmp_path / "examples" / "scale-out")
    lines = [_typed(text, tmp_path, server.settings["port"]) for text in _languages("bash")]
    output = _bash("\n".join([_SERVERS, *lines]), tmp_path, environ)
    assert "schema tokens, as tokens, directly" in output
    assert output.count('"status":"ready"') == 2
    _require_shown_doctor(output)
    assert f"ready: postgresql://tokens@db.example.org/tokens?passfile={tmp_path}" in output
    url = server.url("tokens")
    with psycopg.connect(url) as connection:
        [(revision,)] = connection.execute("SELECT version_num FROM tokens.alembic_version")
        users = connection.execute("SELECT user_id FROM tokens.refresh_tokens").fetchall()
    assert revision == HEAD
    assert users == ([("alice",)] if "copy" in db_commands.commands else [])
    made = {path.name for path in (tmp_path / "examples/scale-out/secrets").iterdir()}
    assert made == set(_compose()["secrets"])


def _require_shown_doctor(output: str) -> None:
    """Check that the doctor prints the lines that the guide shows after the upgrade."""
    [shown] = [text for text in _languages("text") if text.startswith("ok ")]
    *lines, total = _masked(shown)
    printed = _masked(output)
    first = next(n for n, line in enumerate(printed) if "connection:" in line)
    # The server of the test trades durability for speed, and the connection is not encrypted.
    expected = [line for line in lines if "durability" not in line]
    assert printed[first : first + len(expected)] == expected
    assert total == "N ok"
    assert f"\n{len(lines)} ok\n" in shown


def _masked(output: str) -> list[str]:
    """Return the lines, with N in the place of versions, numbers and ids of keys."""
    state = output.replace(f"at-head, {HEAD}", "at-head, HEAD")
    return re.sub(r"\b(?:[0-9a-f]{8}|[0-9]+(?:\.[0-9]+)?)\b", "N", state).splitlines()


def test_the_page_shows_the_script_that_creates_the_database() -> None:
    """One block is the file of the example."""
    assert (EXAMPLE / "create-database.sql").read_text("utf-8") in _languages("text")


def test_a_role_for_migrations_alone(
    server: Server, environ: dict[str, str], tmp_path: Path
) -> None:
    """Servers serve with less; they fail if a migration is pending, and nothing is changed."""
    environ = _create(environ, tmp_path)
    owner = f'-u "postgresql://tokens_owner@/tokens?passfile={tmp_path}/pgpass"'
    [script] = _languages("sql")
    script = script.replace("'another-password'", "'other'")
    (tmp_path / "owner.sql").write_text(f"DROP SCHEMA tokens;\n{script}")
    psql = "psql --username=postgres --dbname=tokens --set=ON_ERROR_STOP=1"
    _bash(f"{psql} --file=owner.sql", tmp_path, environ)
    assert "[missing-grant]" in _bash("nextcloud-mcp-server --port 0", tmp_path, environ, status=1)
    _bash(f"nextcloud-mcp-server db upgrade {owner}", tmp_path, environ)
    assert "may read and write" in _bash("nextcloud-mcp-server db doctor", tmp_path, environ)
    grant = _OLD.replace('"tokens.db"', "")
    _bash(f"{_SERVERS}{grant}three_servers", tmp_path, environ)


def test_every_form_of_the_url_works(environ: dict[str, str], tmp_path: Path) -> None:
    """Several hosts, a service file, an escape, and each place of the password."""
    environ = _create(environ, tmp_path)
    port, passfile = environ["PGPORT"], f"{tmp_path}/pgpass"
    (tmp_path / "services").write_text(
        f"[tokens]\nhost=127.0.0.1\nport={port}\ndbname=tokens\nuser=tokens\n"
    )
    check = "nextcloud-mcp-server db check -u"
    several = f"127.0.0.1:1,127.0.0.1:{port}/tokens?target_session_attrs=read-write"
    for typed in (
        f"unset PGHOSTADDR; PGPASSFILE={passfile} {check} 'postgresql://tokens@{several}'",
        f"PGPASSFILE={passfile} PGSERVICEFILE=services {check} 'postgresql://?service=tokens'",
        f'PGPASSWORD="it\'s a-password" {check} postgresql://tokens@db.example.org/tokens',
        f"{check} postgresql+psycopg://tokens:it%27s%20a-password@db.example.org/tokens",
    ):
        output = _bash(typed, tmp_path, environ, status=3)
        assert "an upgrade creates it" in output
        assert "a-password" not in output


def _compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((EXAMPLE / "compose.yaml").read_text("utf-8"))
    return parsed


def test_the_compose_file_has_three_equal_servers() -> None:
    """They have one database and one key, as files, and the proxy asks each for its health."""
    services = _compose()["services"]
    servers = {name: one for name, one in services.items() if name.startswith("server-")}
    assert len(servers) == 3
    first, *others = servers.values()
    assert others == [first, first]
    environ = first["environment"]
    assert environ["DATABASE_URL"] == (
        "postgresql://tokens@postgres/tokens?passfile=/run/secrets/pgpass"
    )
    assert environ["TOKEN_ENCRYPTION_KEY_FILE"] == "/run/secrets/token_encryption_key"
    assert "TOKEN_ENCRYPTION_KEY" not in environ
    proxy = (EXAMPLE / "Caddyfile").read_text("utf-8")
    assert f"reverse_proxy {' '.join(f'{name}:8000' for name in servers)} {{" in proxy
    assert "health_uri /health/ready" in proxy
    assert set(services["proxy"]["depends_on"]) == set(servers)


def test_what_the_compose_file_names_is_there() -> None:
    """Files and secrets exist or are made by the guide, and no secret can be committed."""
    compose = _compose()
    for service in compose["services"].values():
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            assert source in compose["volumes"] or (EXAMPLE / source).is_file()
    page = PAGE.read_text("utf-8")
    for secret in compose["secrets"].values():
        assert f"> {secret['file']}" in page
    assert (EXAMPLE / ".gitignore").read_text("utf-8") == "secrets/\n"
    [volume] = [one for one in compose["services"]["postgres"]["volumes"] if "/var/lib" in one]
    assert volume == "postgres:/var/lib/postgresql"
