# /// script
# dependencies = ["nox==2026.10.20"]
# ///
"""Checks, the same on a developer's machine and in CI.

- ``uvx nox -s quick`` while you work: lint, types and the fast tests on one interpreter.
- ``uvx nox`` before you push: the default sessions. The first one prints the plan.
- ``uvx nox -t ci`` for the rest, which ``.ci/run`` runs after the default sessions.

Each session runs in an environment that ``uv sync`` creates from the dependency groups and the
pinned versions of ``pyproject.toml``. Positional arguments go to the tool:
``uvx nox -s tests-3.12 -- tests/migrate/test_plan.py -k foreign``.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import nox
from python_discovery import get_interpreter

PYTHONS = ("3.11", "3.12", "3.13")

#: Tests that have a session of their own.
OWN_SESSION = (
    "tests/backends/postgresql",
    "tests/bench",
    "tests/docs",
    "tests/faults",
    "tests/history/test_rotated.py",
    "tests/history/test_taken_back.py",
    "tests/history/test_walked.py",
    "tests/maintenance/audit",
    "tests/maintenance/copy",
    "tests/maintenance/keys",
    "tests/migrations",
    "tests/nextcloud",
    "tests/oauth",
    "tests/races",
    "tests/secrecy",
    "tests/tools",
    "tests/wheel/test_container.py",
    "tests/wheel/test_documents.py",
    "tests/wheel/test_installed.py",
    "tests/wheel/test_keys.py",
    "tests/wheel/test_person.py",
    "tests/wheel/test_plugin.py",
    "tests/wheel/test_tutorial.py",
)
#: Tests of what an interpreter can change: asyncio, threads, typing, the start and the stop.
INTERPRETER = (
    "tests/auth/test_storage*.py",
    "tests/backends/contract",
    "tests/backends/test_pool*.py",
    "tests/backends/test_transaction*.py",
    "tests/cli/test_fast_path.py",
    "tests/plugin/test_fixtures.py",
    "tests/server/test_lifespan*.py",
    "tests/server/test_serve*.py",
    "tests/test_concurrency.py",
    "tests/test_forks.py",
)
#: Tests that take long, and seldom fail alone: CI runs them, on the newest interpreter.
REST = (
    "tests/auth/test_refused_writes.py",
    "tests/authoring",
    "tests/backends/test_companions.py",
    "tests/backends/test_driver.py",
    "tests/backends/test_exclusive.py",
    "tests/backends/test_in_use.py",
    "tests/backends/test_listeners.py",
    "tests/backends/test_replaced.py",
    "tests/cli/test_backups*.py",
    "tests/cli/test_changes.py",
    "tests/cli/test_completion.py",
    "tests/cli/test_downgrade*.py",
    "tests/cli/test_history.py",
    "tests/cli/test_lint.py",
    "tests/cli/test_locale.py",
    "tests/cli/test_nothing_left.py",
    "tests/cli/test_process.py",
    "tests/cli/test_terminal.py",
    "tests/cli/test_upgrade*.py",
    "tests/crypto/test_wrong_key.py",
    "tests/filesystem/test_mounts.py",
    "tests/history",
    "tests/maintenance",
    "tests/migrate/test_decryption.py",
    "tests/migrate/test_run_undone.py",
    "tests/migrate/test_startup_place.py",
    "tests/migrate/test_trust.py",
    "tests/plugin/test_documented.py",
    "tests/plugin/test_runs.py",
    "tests/plugin/test_token_storage.py",
    "tests/plugin/test_walk.py",
    "tests/server/test_limits.py",
    "tests/settings/test_secret.py",
)
#: Tests of migrations that only the session ``migrations`` runs.
MIGRATIONS = (
    "tests/migrations/test_again.py",
    "tests/migrations/test_command_line.py",
    "tests/migrations/test_guards.py",
    "tests/migrations/test_next.py",
    "tests/migrations/test_recreate.py",
    "tests/migrations/test_recreation.py",
    "tests/migrations/test_rewrite.py",
)
#: The compose files, which are compared with the specification. No container runs here.
COMPOSE = ("compose.yaml", "compose.nextcloud.yaml", "examples/scale-out/compose.yaml")
#: The smallest CI machine has two cores.
PARALLEL = ("--numprocesses=2", "--dist=worksteal")

#: Seconds of each default session on two idle cores, in their order, and its content.
PLAN = {
    "lint": (15, "style, import contracts, compose files, the migrations"),
    "types": (30, "strict types of the package, the tests, the docs and the examples"),
    "tests": (350, "the suite without what CI adds, the migrations on SQLite"),
    "docs": (70, "the site and the examples in it, one guide on PostgreSQL"),
}
#: Seconds of ``tests`` on each further interpreter.
FURTHER = (55, "the tests that an interpreter can change")
#: What ``uvx nox -t ci`` adds.
ADDED = (
    "both database engines, every old database, servers, people who connect, keys, maintenance, "
    "the measurements, the wheel, the faults"
)

nox.needs_version = ">=2026.4"
nox.options.default_venv_backend = "uv"
nox.options.reuse_existing_virtualenvs = True
# Without a network a download is an error. `--download-python auto` downloads an interpreter.
nox.options.download_python = "never"
# If CI is set, nox treats a missing interpreter as an error. The plan names it instead.
nox.options.error_on_missing_interpreters = False


@cache
def found() -> tuple[str, ...]:
    """Return the supported versions of Python that this machine has, oldest first."""
    return tuple(version for version in PYTHONS if get_interpreter(version)) or PYTHONS[:1]


def sync(session: nox.Session, *groups: str) -> None:
    """Make the session's environment contain exactly the pinned ``groups`` and the project."""
    # The tests start hundreds of processes: without bytecode each compiles what it imports.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    session.run_install(
        "uv",
        "sync",
        "--quiet",
        f"--python={session.virtualenv.location}",
        *(f"--group={group}" for group in groups),
        env={"UV_PROJECT_ENVIRONMENT": session.virtualenv.location},
    )


def pytest(session: nox.Session, *arguments: str, ignore: tuple[str, ...] = ()) -> None:
    """Run pytest on two cores, with a small part of the faults."""
    session.run(
        "pytest",
        *PARALLEL,
        *(f"--ignore={path}" for path in ignore),
        *arguments,
        env={"FAULT_SHARE": os.environ.get("FAULT_SHARE") or "0.03"},
    )


def matching(patterns: tuple[str, ...]) -> list[str]:
    """Return the paths that match ``patterns``, each of which must match one."""
    paths: list[str] = []
    for pattern in patterns:
        if not (matched := sorted(Path().glob(pattern))):
            raise FileNotFoundError(pattern)
        paths += map(str, matched)
    return paths


@nox.session(python=False)
def plan(session: nox.Session) -> None:
    """Print what the default sessions do, how long they take and what they skip."""
    main, *others = found()
    session.log("Sessions, with their times on two idle cores:")
    for name, (seconds, content) in PLAN.items():
        label = f"tests-{main}" if name == "tests" else name
        session.log(f"  {label:<12} {seconds:>4} s   {content}")
        for version in PYTHONS if name == "tests" else ():
            if version in others:
                session.log(f"  tests-{version:<6} {FURTHER[0]:>4} s   {FURTHER[1]}")
            elif version != main:
                session.log(
                    f"  tests-{version:<6}   skip   Python {version} was not found "
                    f"(to download it: uvx nox --download-python auto)"
                )
    total = sum(seconds for seconds, _ in PLAN.values()) + FURTHER[0] * len(others)
    session.log(f"About {-(-total // 60)} minutes in all; the first run also downloads packages.")
    session.log(f"Not in this run, but in .ci/run and `uvx nox -t ci`: {ADDED}.")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, likely mistakes, import contracts, compose files and the migrations."""
    sync(session, "lint")
    _lint(session)


def _lint(session: nox.Session) -> None:
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", "--no-cache")
    session.run("check-jsonschema", "--builtin-schema=vendor.compose-spec", *COMPOSE)
    session.run("nextcloud-mcp-server", "db", "lint", "--strict")


@nox.session
def types(session: nox.Session) -> None:
    """Check strict types, in the tests too."""
    sync(session, "types")
    session.run("mypy", *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the suite on the oldest interpreter found, and on the others what they can change."""
    sync(session, "test")
    if session.posargs:
        session.run("pytest", *session.posargs)
    elif session.python == found()[0]:
        pytest(session, ignore=(*OWN_SESSION, *matching(REST)))
        pytest(session, "tests/migrations", "-k", "not postgresql", ignore=MIGRATIONS)
    else:
        pytest(session, *matching(INTERPRETER), "-k", "not postgresql")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documents into a site, every warning an error, and run their examples."""
    sync(session, "test", "docs")
    strict = ("-W", "--keep-going", "-n", "--fresh-env", "--quiet")
    session.run("python", "-m", "sphinx", *strict, "-d", "build/doctrees", "docs", "build/docs")
    session.log("the site begins at build/docs/index.html")
    where = session.posargs or (*PARALLEL, "tests/docs")
    session.run("pytest", *where, env={"DOCS_SITE": "build/docs"})


@nox.session(default=False)
def quick(session: nox.Session) -> None:
    """Run lint, types and the fast tests on one interpreter, in about three minutes."""
    sync(session, "lint", "types")
    _lint(session)
    session.run("mypy")
    pytest(session, *session.posargs, ignore=(*OWN_SESSION, *matching(REST), "tests/wheel"))


@nox.session(default=False, tags=["ci"])
def migrations(session: nox.Session) -> None:
    """Run every revision up and down on PostgreSQL, and what `tests` leaves out on SQLite."""
    sync(session, "test")
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    pytest(session, "tests/migrations", "-k", "postgresql")
    pytest(session, *MIGRATIONS, "-k", "not postgresql")


@nox.session(default=False, tags=["ci"], python=found()[-1])
def server(session: nox.Session) -> None:
    """Run the tests of PostgreSQL, on the newest interpreter and on both versions of the server."""
    sync(session, "test")
    pytest(session, *(session.posargs or ("tests/backends/postgresql", "tests/maintenance/copy")))
    if not session.posargs:
        # The other sessions use the newer one.
        older = ("tests/backends/contract", "tests/auth", "-k", "postgresql")
        session.run("pytest", *PARALLEL, *older, env={"POSTGRESQL": "16"})


@nox.session(default=False, tags=["ci"])
def slow(session: nox.Session) -> None:
    """Rotate, walk and take back every old database, replace keys, search for secrets, measure."""
    sync(session, "test")
    history = (f"tests/history/test_{name}.py" for name in ("rotated", "taken_back", "walked"))
    pytest(
        session,
        "tests/bench",
        *history,
        "tests/maintenance/audit",
        "tests/maintenance/keys",
        "tests/secrecy",
    )


@nox.session(default=False, tags=["ci"])
def people(session: nox.Session) -> None:
    """Sign in and use Nextcloud with the real MCP client, against a stand-in of Nextcloud."""
    sync(session, "test")
    # A sign-in waits for the next poll of Nextcloud: much of the time is waiting.
    where = session.posargs or ("--numprocesses=4", "tests/nextcloud", "tests/oauth", "tests/tools")
    pytest(session, *where)


@nox.session(default=False, tags=["ci"], python=found()[-1])
def rest(session: nox.Session) -> None:
    """Run the other tests that take long, on the newest interpreter."""
    sync(session, "test")
    if session.posargs:
        session.run("pytest", *session.posargs)
    else:
        pytest(session, *matching(REST), ignore=OWN_SESSION)


@nox.session(default=False, tags=["ci"])
def wheel(session: nox.Session) -> None:
    """Build the wheel and the sdist, install the wheel into an empty environment, and use it."""
    sync(session, "test")
    session.run("pytest", *(session.posargs or (*PARALLEL, "tests/wheel")))


@nox.session(default=False, tags=["ci"])
def faults(session: nox.Session) -> None:
    """Inject every fault at every point; ``FAULT_SHARE`` takes a sample of them."""
    sync(session, "test")
    where = session.posargs or (*PARALLEL, "tests/faults", "tests/races")
    session.run("pytest", *where, env={"FAULT_SHARE": os.environ.get("FAULT_SHARE") or "1"})


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure every figure of docs/performance.md, on an otherwise idle machine."""
    sync(session, "test")
    session.run("python", "-m", "tests.bench", *session.posargs)


if __name__ == "__main__":
    nox.main()
