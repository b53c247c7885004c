"""Errors of the operating system get a code and a remedy that fits their cause."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nextcloud_mcp_server.filesystem.errors import named
from tests.support.by_path import inspect, prepare
from tests.support.errors import refused


@pytest.mark.parametrize(
    ("number", "what", "remedy"),
    [
        (errno.EMFILE, "too many files are open", "ulimit -n"),
        (errno.ENFILE, "too many files are open", "ulimit -n"),
        (errno.EFBIG, "a file may not become larger", "ulimit -f"),
    ],
)
def test_a_limit_of_the_process_is_named(number: int, what: str, remedy: str, path: Path) -> None:
    """It is neither a fault of the disk nor one of the path."""
    error = named(OSError(number, os.strerror(number)), path)
    assert error is not None
    assert (error.code, what in error.message, remedy in error.remedy) == ("io-error", True, True)


@contextmanager
def no_more_files() -> Iterator[None]:
    """Let this process open no file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_sqlite_at_the_limit_of_open_files_is_named(path: Path) -> None:
    """SQLite only says that it cannot open the file."""
    prepare(path)
    assert inspect(path).ready
    with no_more_files():
        error = refused(lambda: inspect(path))
    assert (error.code, "too many files are open" in error.message) == ("io-error", True)
