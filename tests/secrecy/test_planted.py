"""Planted secrets are nowhere but where the table allows them."""

from __future__ import annotations

import base64
import json
import re
import resource
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.cli.places import environment, process
from tests.secrecy.planted import KEYS, PLANTED, SECRETS, found_in, leaks

KEY = f"{KEYS['key']};{KEYS['older key']}"

Places = dict[str, tuple[str, bytes]]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Places]:
    """A database with every planted secret, and what its life has printed."""
    folder = tmp_path_factory.mktemp("lived")
    path = folder / "tokens.db"
    done = process(
        str(path),
        cwd=folder,
        code="from runpy import run_module; run_module('tests.secrecy.life', run_name='__main__')",
    )
    assert done.status == 0, done.err
    assert "it failed" in done.err
    return path, {"output": ("output", done.out.encode()), "log": ("log", done.err.encode())}


def _files(path: Path) -> Places:
    kinds = {"": "database", ".key": "key file"}
    places: Places = {}
    for file in path.parent.iterdir():
        if file.is_file():
            suffix = file.name.removeprefix(path.name).removesuffix("-wal")
            kind = "backup" if ".backup-" in suffix and suffix[-5:] != ".json" else suffix
            places[file.name] = (kinds.get(kind, kind), file.read_bytes())
    return places


def test_the_log_and_the_output_of_a_life(lived: tuple[Path, Places]) -> None:
    """No message, repr, error or DEBUG line of any library has a secret."""
    assert leaks(lived[1]) == []


COMMANDS = (
    *("db doctor", "db doctor", "db log", "db log", "db backup", "db backups", "keys list"),
    *("keys list", "db downgrade -1 -y", "db upgrade", "db restore --newest -y", "db upgrade"),
    *("db prune -y", "keys rotate", "db repair -y"),
)


def test_the_commands_and_the_files(lived: tuple[Path, Places]) -> None:
    """No command prints a secret, in either form; the files have what the table allows."""
    path, _ = lived
    places: Places = {}
    environ = {"TOKEN_ENCRYPTION_KEY": KEY}
    down, rotated = COMMANDS.index("db downgrade -1 -y"), COMMANDS.index("keys rotate")
    for number, command in enumerate(COMMANDS):
        form = ["--json"] if number % 2 else ["--debug"]
        done = process(*command.split(), *form, "-d", str(path), cwd=path.parent, environ=environ)
        name = f"{number} {command}"
        places[f"{name} out"] = ("output", done.out.encode())
        places[f"{name} err"] = ("log", done.err.encode())
        for file, (found, content) in _files(path).items():
            kind = found
            # A backup from then on may be of what released versions can read.
            if down <= number < rotated or (kind == "backup" and number >= rotated):
                kind = f"released {kind}"
            places[f"{name} {file}"] = (kind, content)
    kinds = {kind for kind, _ in places.values()}
    assert kinds >= {"database", "backup", "output", "log"}
    assert leaks(places) == []


@pytest.mark.parametrize("key", ["wrong key", "none", "malformed"])
def test_refused_commands(key: str, lived: tuple[Path, Places]) -> None:
    """An error about a key has none of them."""
    given = {"wrong key": KEYS["wrong key"], "none": "", "malformed": KEYS["key"][:-1] + "x="}[key]
    places: Places = {}
    for command in ("db doctor", "keys list", "keys rotate", "db upgrade --debug"):
        database = {"TOKEN_STORAGE_DB": str(lived[0]), "TOKEN_ENCRYPTION_KEY": given}
        done = process(*command.split(), cwd=lived[0].parent, environ=database)
        assert done.out + done.err
        places[command] = ("output", (done.out + done.err).encode())
    assert leaks(places) == []


@pytest.mark.parametrize(
    "url",
    ["postgresql://mcp:{}@127.0.0.1:1/tokens", "postgresql://127.0.0.1:1/tokens?password={}"],
)
def test_the_password_of_a_server(url: str, tmp_path: Path) -> None:
    """A server that does not answer is named without its password, by every command."""
    places: Places = {}
    environ = {
        "DATABASE_URL": url.format(PLANTED["PG password"]),
        "TOKEN_ENCRYPTION_KEY": KEY,
        "TOKEN_STORAGE_LOCK_TIMEOUT": "0",
    }
    for command in (
        *("db current --json", "--debug db doctor", "--debug db upgrade", "--debug keys list"),
        "--debug run --port 0 --log-level debug",
    ):
        done = process(*command.split(), cwd=tmp_path, environ=environ)
        assert done.status
        places[command] = ("output", (done.out + done.err).encode())
    assert leaks(places) == []


class _Server:
    """A running server, with a log at its most detailed."""

    def __init__(self, path: Path, **options: object) -> None:
        level = {"NEXTCLOUD_MCP_LOG_LEVEL": "debug", "NEXTCLOUD_MCP_ACCESS_LOG": "1"}
        database = {"TOKEN_STORAGE_DB": str(path), "TOKEN_ENCRYPTION_KEY": KEY}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nextcloud_mcp_server", "run", "--port", "0"],
            cwd=path.parent,
            env=environment(path.parent, {**level, **database, "PYTHONASYNCIODEBUG": "1"}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,  # type: ignore[call-overload]
        )
        self.log = ""
        self.url = ""
        assert self.process.stdout is not None
        while not self.url:
            line = self.process.stdout.readline()
            assert line, self.log
            self.log += line
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.url = found[0]

    def get(self, path: str) -> bytes:
        """Ask for a page as a client that sends secrets does."""
        headers = {
            "Cookie": f"session={PLANTED['session id']}",
            "Authorization": f"Bearer {PLANTED['idp access token']}",
        }
        query = f"code={PLANTED['authorization code']}&state={PLANTED['state']}"
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{self.url}{path}?{query}", headers=headers
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - as above
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            return error.read()

    def end(self, number: int) -> None:
        """Send a signal and read the rest of the log."""
        self.process.send_signal(number)
        self.log += self.process.communicate(timeout=60)[0]


PAGES = ("/", "/health/live", "/health/ready", "/metrics", "/nowhere")


def test_a_running_server(lived: tuple[Path, Places]) -> None:
    """No page, log line or list of processes has a secret, also if a client sends it."""
    server = _Server(lived[0])
    places: Places = {page: ("page", server.get(page)) for page in PAGES}
    proc = Path(f"/proc/{server.process.pid}")
    if proc.exists():
        places["cmdline"] = ("cmdline", (proc / "cmdline").read_bytes())
        places["environ"] = ("environment", (proc / "environ").read_bytes())
        for thread in (proc / "task").iterdir():
            places[f"thread {thread.name}"] = ("threads", (thread / "comm").read_bytes())
    server.end(signal.SIGTERM)
    places["log"] = ("log", server.log.encode())
    assert server.log.count("GET") >= len(PAGES)
    assert leaks(places) == []


def _allow_cores() -> None:
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))


def _cores(folder: Path) -> list[Path]:
    return list(folder.glob("core*"))


@pytest.fixture
def writes_cores(lived: tuple[Path, Places]) -> Path:
    """Return the folder of the database, where a crash writes a core in which a key is found."""
    folder = lived[0].parent
    done = subprocess.run(
        [sys.executable, "-c", "import os; key = os.environ['K']; os.abort()"],
        cwd=folder,
        env={"K": KEYS["key"]},
        preexec_fn=_allow_cores,
        check=False,
    )
    assert done.returncode == -signal.SIGABRT
    cores = _cores(folder)
    if not cores:
        pytest.skip("no core can be written here")
    # Control: the search finds the key in the core of a program that permits one.
    assert "key" in found_in(b"".join(core.read_bytes() for core in cores))
    for core in cores:
        core.unlink()
    return folder


def test_a_server_that_crashes_writes_no_core(
    lived: tuple[Path, Places], writes_cores: Path
) -> None:
    """Its memory has the keys: it is not written where the operating system puts crashes."""
    server = _Server(lived[0], preexec_fn=_allow_cores)
    server.get("/health/ready")
    server.end(signal.SIGABRT)
    assert _cores(writes_cores) == []


#: Reports that the command runs, and lets it wait to be ended.
_WAITING = """
import sys, time
from {module} import {function} as _
import {module} as module
def wait(*_, **__):
    # Meanwhile stdout is that of the command's own lines.
    print("running", file=sys.__stdout__, flush=True)
    time.sleep(60)
module.{function} = wait
from nextcloud_mcp_server.cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("command", "where"),
    [
        ("keys rotate", "nextcloud_mcp_server.maintenance.keys.rotate.reading"),
        ("db upgrade", "nextcloud_mcp_server.migrate.startup.prepare"),
        ("stdio", "nextcloud_mcp_server.server.stdio._serve"),
    ],
)
def test_a_command_that_crashes_writes_no_core(
    command: str, where: str, lived: tuple[Path, Places], writes_cores: Path
) -> None:
    """Every command has the keys in its environment, and some have them in use."""
    module, _, function = where.rpartition(".")
    given = {"TOKEN_ENCRYPTION_KEY": KEY, "TOKEN_STORAGE_DB": str(lived[0])}
    with subprocess.Popen(
        [sys.executable, "-c", _WAITING.format(module=module, function=function), *command.split()],
        cwd=writes_cores,
        env=environment(writes_cores, given),
        preexec_fn=_allow_cores,  # noqa: PLW1509 - no other thread runs
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert any(b"running" in line for line in process.stdout)
        process.send_signal(signal.SIGABRT)
        assert process.wait(60) == -signal.SIGABRT
    assert _cores(writes_cores) == []


@pytest.mark.parametrize("name", SECRETS)
def test_the_search_finds_a_secret(name: str) -> None:
    """Control: a secret is found as it is, in JSON, in hex, and in the middle of base64."""
    secret = SECRETS[name].encode("ascii")
    for content in (
        b"x" + secret + b"y",
        json.dumps({"a": SECRETS[name]}).encode(),
        secret.hex().encode(),
        *(base64.b64encode(b"x" * n + secret + b"x") for n in range(3)),
        SECRETS[name].encode("utf-16"),
    ):
        assert found_in(content) == {name}
        assert leaks({"a place": ("log", content)}) == [f"a place: {name}"]


def test_the_database_holds_no_secret(lived: tuple[Path, Places]) -> None:
    """Neither a planted secret nor a key is in the bytes of the database; a user's name is."""
    database = lived[0].read_bytes()
    assert b"alice" in database
    assert found_in(database) == set()
