# /// script
# dependencies = ["nox==2026.10.20"]
# ///
"""Checks, the same on a developer's machine and in CI: ``uvx nox``.

Every session but ``wheel`` runs in an environment that ``uv sync`` made from the dependency
groups and the pinned versions of ``pyproject.toml``. Positional arguments go to the tool:
``uvx nox -s tests-3.12 -- tests/migrate/test_plan.py -k foreign``.
"""

from __future__ import annotations

import nox

PYTHONS = ("3.11", "3.12", "3.13")

#: Folders with a session of their own.
OWN_SESSION = ("tests/docs", "tests/migrations", "tests/wheel")
#: What tries SQLite, the file system, the order of our calls and every database of the corpus,
#: which no interpreter changes. The oldest interpreter runs them.
ONCE = (
    "tests/bench",
    "tests/faults",
    "tests/history",
    "tests/authoring/lint",
    "tests/races",
    "tests/maintenance/restore",
)
#: The other slow folders, which start whole processes. Where the oldest and the newest
#: interpreter agree about them, those between do not deny it.
SLOW = ("tests/cli", "tests/plugin")
#: Two processes are what the smallest CI machine has cores for.
PARALLEL = ("--numprocesses=2", "--dist=worksteal")

nox.needs_version = ">=2026.4"
nox.options.default_venv_backend = "uv"
nox.options.reuse_existing_virtualenvs = True
# Where CI is set, nox makes an error of an interpreter that is not there; a word is enough.
nox.options.error_on_missing_interpreters = False


def sync(session: nox.Session, *groups: str) -> None:
    """Make the session's environment hold exactly the pinned ``groups`` and the project."""
    # The tests start hundreds of processes: without bytecode each compiles all that it imports.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    session.run_install(
        "uv",
        "sync",
        "--quiet",
        f"--python={session.virtualenv.location}",
        *(f"--group={group}" for group in groups),
        env={"UV_PROJECT_ENVIRONMENT": session.virtualenv.location},
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Style, likely mistakes, the contract that imports only go down, and the migrations."""
    sync(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", "--no-cache")
    session.run("nextcloud-mcp-server", "db", "lint", "--strict")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types, in the tests too."""
    sync(session, "types")
    session.run("mypy", *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the suite, on each interpreter found."""
    sync(session, "test")
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    skipped: tuple[str, ...] = OWN_SESSION
    if session.python != PYTHONS[0]:
        skipped += ONCE
    if session.python in PYTHONS[1:-1]:
        skipped += SLOW
    session.run("pytest", *PARALLEL, *(f"--ignore={folder}" for folder in skipped))


@nox.session
def migrations(session: nox.Session) -> None:
    """Walk every revision up and down, with rows in the tables."""
    sync(session, "test")
    session.run("pytest", *(session.posargs or (*PARALLEL, "tests/migrations")))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documents into a site, every warning an error, and run their examples."""
    sync(session, "test", "docs")
    strict = ("-W", "--keep-going", "-n", "--fresh-env", "--quiet")
    session.run("python", "-m", "sphinx", *strict, "-d", "build/doctrees", "docs", "build/docs")
    session.log("the site begins at build/docs/index.html")
    session.run("pytest", *(session.posargs or ("tests/docs",)), env={"DOCS_SITE": "build/docs"})


@nox.session(default=False)
def faults(session: nox.Session) -> None:
    """Produce every fault at every point; the ``tests`` session takes a tenth of them."""
    sync(session, "test")
    where = session.posargs or (*PARALLEL, "tests/faults")
    session.run("pytest", *where, env={"FAULT_SHARE": session.env.get("FAULT_SHARE") or "1"})


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure every figure of docs/performance.md, on an otherwise idle machine."""
    sync(session, "test")
    session.run("python", "-m", "tests.bench", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel and the sdist, install the wheel in an empty place, and use it there."""
    sync(session, "test")
    session.run("pytest", *(session.posargs or (*PARALLEL, "tests/wheel")))


if __name__ == "__main__":
    nox.main()
