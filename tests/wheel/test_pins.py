"""The versions are pinned once, and every place that names one has the same version."""

from __future__ import annotations

import re
import shlex
from typing import Any

from tests.wheel.conftest import CHECKOUT, uv


def _pins(project: dict[str, Any]) -> set[str]:
    return set(project["tool"]["uv"]["constraint-dependencies"])


def test_every_library_is_pinned(project: dict[str, Any]) -> None:
    """Every tool and library, direct or not, has a pinned version."""
    everything = uv(
        "export", "--quiet", "--all-groups", "--all-extras", "--no-hashes", "--no-annotate",
        "--no-header", "--no-emit-project",
    )  # fmt: skip

    resolved = {line.split(";")[0].strip() for line in everything.splitlines() if line.strip()}
    assert resolved == _pins(project)


def test_nox_runs_in_its_pinned_version(project: dict[str, Any]) -> None:
    """``uvx nox`` runs the newest version, so the noxfile requires the pinned one."""
    head = (CHECKOUT / "noxfile.py").read_text(encoding="utf-8").split('"""')[0]

    assert set(re.findall(r'"(nox[^"]*)"', head)) == {p for p in _pins(project) if p[:5] == "nox=="}


def test_ci_types_the_test_command_of_the_readme() -> None:
    """``.ci/run`` runs the test command of the README first, and stops if that fails."""
    command = "pip install uv && uvx nox"
    script = (CHECKOUT / ".ci" / "run").read_text(encoding="utf-8").splitlines()

    assert command in (CHECKOUT / "README.md").read_text(encoding="utf-8")
    runs = [line.strip() for line in script if "uvx nox" in line and not line.startswith("#")]
    assert runs == [f'{command} "$@" || exit', "FAULT_SHARE=${FAULT_SHARE:-0.05} uvx nox -t ci"]


def test_the_image_builds_with_the_pinned_uv(project: dict[str, Any]) -> None:
    """The Dockerfile names the uv that ``pyproject.toml`` pins."""
    words = shlex.split((CHECKOUT / "Dockerfile").read_text(encoding="utf-8"), comments=True)

    assert {w for w in words if w.startswith("uv==")} == {
        p for p in _pins(project) if p.startswith("uv==")
    }
