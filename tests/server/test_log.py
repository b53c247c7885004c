"""The log of the server: text or JSON, levels, the access log, and no secrets in it."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from nextcloud_mcp_server.server.access_log import AccessLog
from nextcloud_mcp_server.server.log import LogOptions, log_to_stderr
from nextcloud_mcp_server.server.run import serve
from nextcloud_mcp_server.settings import Settings
from tests.server.helpers import Server
from tests.support.contents import KEY

pytestmark = pytest.mark.usefixtures("as_before")

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"

#: Text that looks like a secret, as a library might log it.
SECRETS = (KEY, "gAAAAABm0123456789012345678901", "postgresql://me:s3cret@host/x")
HIDDEN = re.compile(r"s3cret|gAAAAA|" + re.escape(KEY))


def _objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_has_time_level_and_message(capfd: pytest.CaptureFixture[str]) -> None:
    """A message of any module of the package is one line, from info up."""
    with log_to_stderr(LogOptions()):
        log = logging.getLogger("nextcloud_mcp_server.migrate.startup")
        log.info("waiting\nfor the lock")
        log.debug("a detail")
        log.warning("careful")
        logging.getLogger("another").info("of a library")

    first, second = capfd.readouterr().err.splitlines()
    assert re.fullmatch(TIME + r" info: waiting\\nfor the lock", first)
    assert re.fullmatch(TIME + " warning: careful", second)


def test_json_is_one_object_per_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Each line is an object with time, level, message and logger, and its traceback if any."""
    name = "nextcloud_mcp_server.migrate.startup"
    with log_to_stderr(LogOptions(format="json")):
        log = logging.getLogger(name)
        log.info("waiting\nfor %s", "the \x1b lock")
        try:
            raise ValueError("a reason")
        except ValueError:
            log.exception("it failed")

    first, second = _objects(capfd.readouterr().err)
    assert re.fullmatch(TIME, first.pop("time"))
    assert first == {"level": "info", "message": "waiting\nfor the \x1b lock", "logger": name}
    assert (second["level"], second["message"]) == ("error", "it failed")
    assert "ValueError: a reason" in second["traceback"]


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", "debug info warning library error"),
        ("info", "info warning library error"),
        ("warning", "warning library error"),
        ("error", "error"),
    ],
)
def test_levels(level: str, shown: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A level hides what is less severe, of libraries too, whose info is never shown."""
    with log_to_stderr(LogOptions(level=level)):
        ours, other = logging.getLogger("nextcloud_mcp_server.x"), logging.getLogger("another")
        ours.debug("debug")
        ours.info("info")
        ours.warning("warning")
        other.info("no")
        other.warning("library")
        ours.error("error")
    words = [line.rpartition(" ")[2] for line in capfd.readouterr().err.splitlines()]
    assert words == shown.split()


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_reaches_the_log(form: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Keys, tokens and passwords in messages and tracebacks are hidden in every form."""
    with log_to_stderr(LogOptions("debug", form)) as printer:
        for number, secret in enumerate(SECRETS):
            logging.getLogger("a library").warning("with %s in it", secret)
            try:
                raise ValueError(secret)
            except ValueError as error:
                logging.getLogger("nextcloud_mcp_server.x").exception("failed %d", number)
                printer.error(error, debug=False)
    text = capfd.readouterr().err
    assert text.count("***") == 9
    assert not HIDDEN.search(text)


def test_an_error_with_json_is_one_object(bad: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A failed start prints one object with code and remedy; with debug also the traceback."""
    for debug in (False, True):
        settings = Settings(bad, keys=(KEY,))
        assert serve(port=0, settings=settings, debug=debug, log=LogOptions(format="json")) == 1
        out, err = capfd.readouterr()
        assert [line["message"] for line in _objects(out)] == [f"database: {bad}"]
        error = _objects(err)[-1]
        assert (error["level"], error["code"]) == ("error", "not-a-database")
        assert error["remedy"]
        assert ("traceback" in error) is debug


def test_the_access_log_has_no_query_and_no_header(caplog: pytest.LogCaptureFixture) -> None:
    """A request is one line with its status; what a client sends besides the path is left out."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/breaks":
            raise ZeroDivisionError
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    client = TestClient(AccessLog(app), raise_server_exceptions=False)
    logging.getLogger("nextcloud_mcp_server").setLevel(logging.ERROR)
    client.get("/somewhere?code=s3cret", headers={"Authorization": "Bearer s3cret"})
    client.post("/breaks")
    client.get("/" + "x" * 9000)
    first, second, third = (record.getMessage() for record in caplog.records)
    assert re.fullmatch(r"testclient GET /somewhere 204 \d+\.\d ms", first)
    assert re.fullmatch(r"testclient POST /breaks 500 \d+\.\d ms", second)
    assert len(third) < 300
    assert "s3cret" not in caplog.text


def _run(*arguments: str) -> tuple[str, ...]:
    return ("-m", "nextcloud_mcp_server", *arguments)


def test_a_server_with_json_and_access_log(database: Path) -> None:
    """Every line on stdout and stderr is an object, and a request is one with its values."""
    env = {
        "NEXTCLOUD_MCP_PORT": "0",
        "NEXTCLOUD_MCP_LOG_FORMAT": "json",
        "NEXTCLOUD_MCP_ACCESS_LOG": "1",
        "NEXTCLOUD_MCP_LOG_LEVEL": "error",
    }
    with Server(database, command=_run("run"), **env) as server:
        while "listening on" not in server.line("{"):
            pass
        url = json.loads(server.output[-1])["message"].removeprefix("listening on ")
        assert httpx.get(f"{url}/health/live?token=s3cret").status_code == 200
        status, errors = server.stop()
    assert status == 0
    assert "s3cret" not in errors
    assert {line["level"] for line in _objects("\n".join(server.output))} == {"info"}
    [line] = _objects(errors)
    asked = (line["client"], line["method"], line["path"], line["status"])
    assert asked == ("127.0.0.1", "GET", "/health/live", 200)
    assert line["message"].startswith("127.0.0.1 GET /health/live 200 ")


def test_there_is_no_access_log_by_default(database: Path) -> None:
    """A request logs nothing."""
    with Server(database, command=_run("--port", "0")) as server:
        assert httpx.get(server.url()).status_code == 200
        assert server.stop() == (0, "")


def test_a_hangup_stops_neither_the_server_nor_its_start(database: Path) -> None:
    """A server whose terminal is closed goes on, and SIGTERM stops it as before."""
    with Server(database) as server:
        url = server.url()
        for _ in range(3):
            os.kill(server.process.pid, signal.SIGHUP)
            time.sleep(0.1)
            assert httpx.get(f"{url}/health/live").status_code == 200
        assert server.stop()[0] == 0
    assert server.output[-1] == "stopped"


def test_a_hangup_handler_is_restored(database: Path) -> None:
    """After serving, the program has the handler of SIGHUP that it had before."""
    code = (
        "import signal; from nextcloud_mcp_server.server.run import serve\n"
        "signal.signal(signal.SIGHUP, print)\n"
        "assert serve('no such host', 0) == 1\n"
        "assert signal.getsignal(signal.SIGHUP) is print\n"
    )
    with Server(database, command=("-c", code)) as server:
        status, errors = server.end()
    assert status == 0, errors


def test_a_signal_that_nohup_ignores_stays_ignored(database: Path) -> None:
    """A program that ignores SIGHUP from the start, as nohup makes it, still stops on SIGTERM."""
    first = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    with Server(database, first) as server:
        server.url()
        server.process.send_signal(signal.SIGHUP)
        assert server.stop()[0] == 0
