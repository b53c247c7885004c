"""The image and the compose file, checked without a container engine.

The steps of the image run in a folder: the same uv commands, environment variables and entry
point.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from nextcloud_mcp_server.backends.sqlite.wal import has_reset_bug
from nextcloud_mcp_server.settings.nextcloud import nextcloud_settings
from tests.wheel.conftest import CHECKOUT


def _instructions() -> list[tuple[str, str]]:
    text = (CHECKOUT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (line.split(maxsplit=1)[0], line.split(maxsplit=1)[1])
        for line in joined.splitlines()
        if line
    ]


def _stages() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    steps = _instructions()
    second = [i for i, (word, _) in enumerate(steps) if word == "FROM"][1]
    return steps[:second], steps[second:]


def _values(steps: Sequence[tuple[str, str]], word: str) -> list[str]:
    return [rest for name, rest in steps if name == word]


def _environment(steps: Sequence[tuple[str, str]]) -> dict[str, str]:
    pairs = " ".join(_values(steps, "ENV")).split()
    return dict(pair.split("=", 1) for pair in pairs)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """``compose.yaml``, parsed."""
    parsed: dict[str, Any] = yaml.safe_load((CHECKOUT / "compose.yaml").read_text(encoding="utf-8"))
    return parsed


def test_the_final_image_runs_as_a_fixed_unprivileged_user() -> None:
    """The user is a number, not root, and owns the volume before it becomes one."""
    _, final = _stages()
    [user] = _values(final, "USER")
    [prepared] = _values(final, "RUN")

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    uid, gid = user.split(":")
    assert f"--owner={uid} --group={gid} --mode=0700 /app/data" in prepared
    words = [word for word, _ in final]
    assert words.index("RUN") < words.index("VOLUME") < words.index("USER")


def test_the_volume_holds_the_database() -> None:
    """The default database of the image lies on its volume."""
    _, final = _stages()

    assert _values(final, "VOLUME") == ["/app/data"]
    assert _environment(final)["TOKEN_STORAGE_DB"] == "/app/data/tokens.db"


def test_signals_reach_the_server() -> None:
    """Entry point and command are in exec form, without a shell."""
    _, final = _stages()
    entry, command = (json.loads(_values(final, word)[0]) for word in ("ENTRYPOINT", "CMD"))

    assert entry == ["nextcloud-mcp-server"]
    assert command == ["run", "--host", "0.0.0.0", "--port", "8000"]  # noqa: S104


def test_the_operators_tools_are_inside() -> None:
    """``sqlite3`` and ``uv`` are in the final image."""
    _, final = _stages()

    assert "--from=build /sqlite/sqlite3 /usr/local/bin/" in _values(final, "COPY")
    assert "--from=build /usr/local/bin/uv /usr/local/bin/uv" in _values(final, "COPY")


def test_sqlite_is_a_release_without_the_reset_bug() -> None:
    """The image builds a verified release of SQLite, and fails if Python loads another one."""
    build, final = _stages()
    [source] = _values(build, "ADD")
    [number] = re.findall(r"sqlite-autoconf-(\d)(\d\d)(\d\d)00\.tar\.gz", source)
    version = tuple(map(int, number))

    assert re.search(r"--checksum=sha256:[0-9a-f]{64} ", source)
    assert not has_reset_bug(version)
    assert f"sqlite_version == '{'.'.join(map(str, version))}'" in _values(final, "RUN")[0]
    assert "--from=build /sqlite/libsqlite3.so.0 /usr/local/lib/" in _values(final, "COPY")


def test_the_health_check_needs_no_library() -> None:
    """The health check is a Python program without libraries that fails if nothing listens."""
    _, final = _stages()
    program = json.loads(_values(final, "HEALTHCHECK")[0].split(" CMD ")[1].removeprefix("CMD "))
    nothing_listens = program[2].replace(":8000", ":9")

    assert program[:2] == ["python", "-c"]
    assert "/health/ready" in program[2]
    done = subprocess.run(
        [sys.executable, "-I", "-c", nothing_listens], capture_output=True, check=False
    )
    assert done.returncode == 1


def test_the_build_context_is_minimal() -> None:
    """The ignore file includes only what the build stage copies, so no database or key."""
    build, _ = _stages()
    names = {name.rstrip("/") for rest in _values(build, "COPY") for name in rest.split()[:-1]}
    copied = {name for name in names if names.isdisjoint(map(str, Path(name).parents))}
    ignore = (CHECKOUT / ".dockerignore").read_text(encoding="utf-8").splitlines()

    assert "*" in ignore
    assert {line[1:].rstrip("/") for line in ignore if line.startswith("!")} == copied
    assert all((CHECKOUT / name).exists() for name in copied)


def test_compose_keeps_the_database_on_a_named_volume(compose: dict[str, Any]) -> None:
    """The service has the named volume on ``/app/data``."""
    [service] = compose["services"].values()

    [(name, folder)] = [mount.split(":") for mount in service["volumes"]]
    assert folder == "/app/data"
    assert name in compose["volumes"]


def test_compose_passes_the_key_as_a_file(compose: dict[str, Any]) -> None:
    """The key is a secret file, never a value in the container's environment."""
    [service] = compose["services"].values()
    [secret] = service["secrets"]

    assert service["environment"]["TOKEN_ENCRYPTION_KEY_FILE"] == f"/run/secrets/{secret}"
    assert "TOKEN_ENCRYPTION_KEY" not in service["environment"]
    assert "file" in compose["secrets"][secret]
    ignored = (CHECKOUT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert secret in ignored


def test_compose_gives_a_migration_the_time_to_end(compose: dict[str, Any]) -> None:
    """A stop waits for ten minutes or more, and an init process forwards the signal."""
    [service] = compose["services"].values()

    assert int(service["stop_grace_period"].removesuffix("m")) >= 10
    assert service["init"] is True


@pytest.fixture(scope="module")
def with_nextcloud() -> dict[str, Any]:
    """``compose.nextcloud.yaml``, parsed."""
    text = (CHECKOUT / "compose.nextcloud.yaml").read_text(encoding="utf-8")
    parsed: dict[str, Any] = yaml.safe_load(text)
    return parsed


def test_the_server_and_a_browser_reach_the_nextcloud_beside_it(
    compose: dict[str, Any], with_nextcloud: dict[str, Any]
) -> None:
    """The server uses the name in the network, a browser the published port; both are trusted."""
    nextcloud = with_nextcloud["services"]["nextcloud"]
    [(name, service)] = compose["services"].items()
    added = with_nextcloud["services"][name]
    settings = nextcloud_settings(added["environment"], listening=("0.0.0.0", 8000))  # noqa: S104
    assert settings is not None
    host, browser = urlsplit(settings.host), urlsplit(settings.browser_url)
    trusted = nextcloud["environment"]["NEXTCLOUD_TRUSTED_DOMAINS"].split()

    assert host.hostname in with_nextcloud["services"]
    assert {host.hostname, browser.hostname} == set(trusted)
    assert nextcloud["ports"] == [f"{browser.netloc}:{host.port or 80}"]
    assert service["ports"] == [f"{urlsplit(settings.public_url).netloc}:8000"]
    assert added["depends_on"] == {"nextcloud": {"condition": "service_healthy"}}
    assert "status.php" in nextcloud["healthcheck"]["test"][1]


def test_nothing_is_published_beyond_this_machine(
    compose: dict[str, Any], with_nextcloud: dict[str, Any]
) -> None:
    """Every port is one of loopback."""
    services = [*compose["services"].values(), *with_nextcloud["services"].values()]
    ports = [port for service in services for port in service.get("ports", ())]

    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_nextcloud_has_no_password_that_everybody_knows(with_nextcloud: dict[str, Any]) -> None:
    """Its password is a file that the person makes and git ignores, never a value."""
    nextcloud = with_nextcloud["services"]["nextcloud"]
    passwords = {k: v for k, v in nextcloud["environment"].items() if "PASSWORD" in k}
    [secret] = nextcloud["secrets"]

    assert passwords == {"NEXTCLOUD_ADMIN_PASSWORD_FILE": f"/run/secrets/{secret}"}
    assert "file" in with_nextcloud["secrets"][secret]
    assert secret in (CHECKOUT / ".gitignore").read_text(encoding="utf-8").splitlines()
    [(volume, _)] = [mount.split(":") for mount in nextcloud["volumes"]]
    assert volume in with_nextcloud["volumes"]


def test_every_compose_file_is_compared_with_the_specification() -> None:
    """The session ``lint`` names each of them."""
    tracked = [*CHECKOUT.glob("compose*.yaml"), *CHECKOUT.glob("examples/*/compose*.yaml")]
    noxfile = (CHECKOUT / "noxfile.py").read_text(encoding="utf-8")
    [named] = re.findall(r"^COMPOSE = (\(.*\))$", noxfile, re.MULTILINE)

    assert {str(path.relative_to(CHECKOUT)) for path in tracked} == set(ast.literal_eval(named))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of ``/app`` after both stages, from the same uv commands."""
    root = tmp_path_factory.mktemp("image")
    source, app = root / "src", root / "app"
    source.mkdir()
    (app / "data").mkdir(parents=True)
    build, _ = _stages()
    settings = _environment(build) | {"UV_PROJECT_ENVIRONMENT": str(app / ".venv")}
    # The engine has an empty cache for each step; the developer's cache is faster.
    del settings["UV_NO_CACHE"]
    environment = {k: os.environ[k] for k in ("PATH", "HOME", "SSL_CERT_FILE") if k in os.environ}
    for word, rest in build:
        if word == "COPY":
            for name in rest.split()[:-1]:
                _copy(CHECKOUT / name, source / name)
        elif word == "RUN" and rest.startswith("uv "):
            command = [*rest.split(), "--quiet", "--python", sys.executable]
            subprocess.run(command, cwd=source, env=environment | settings, check=True, timeout=300)
    # Only /app is copied into the final image.
    shutil.rmtree(source)
    return app


def _copy(origin: Path, target: Path) -> None:
    if origin.is_dir():
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(origin, target, ignore=ignore, dirs_exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(origin, target)


def test_uv_run_works_in_the_image_without_a_network(image: Path) -> None:
    """``uv run nextcloud-mcp-server db ...`` uses the installed program and fetches nothing."""
    _, final = _stages()
    settings = {k: v.replace("/app/", f"{image}/") for k, v in _environment(final).items()}
    settings["PATH"] = f"{image}/.venv/bin:{os.environ['PATH']}"

    def typed(line: str) -> str:
        done = subprocess.run(
            line.split(), cwd=image, env=settings, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    typed("uv run nextcloud-mcp-server db upgrade")
    assert str(image / "data" / "tokens.db") in typed("uv run nextcloud-mcp-server db current")


def test_the_image_holds_the_package_not_a_link_to_its_source(image: Path) -> None:
    """The environment works without the source of the build stage."""
    [package] = image.glob(".venv/lib/python*/site-packages/nextcloud_mcp_server")

    assert (package / "_alembic" / "env.py").is_file()
