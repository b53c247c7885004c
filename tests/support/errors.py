"""Errors with a code: as a value, and as what a test expects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from nextcloud_mcp_server.errors import TokenStorageError

T = TypeVar("T")


def attempt(call: Callable[[], T]) -> T | TokenStorageError:
    """Return the result of ``call``, or the error that it raises."""
    try:
        return call()
    except TokenStorageError as error:
        return error


def refused(call: Callable[[], object], code: str | None = None) -> TokenStorageError:
    """Return the error that ``call`` must raise, with this code if one is given."""
    with pytest.raises(TokenStorageError) as caught:
        call()
    assert code is None or caught.value.code == code
    return caught.value


@contextmanager
def refuses(
    code: str, match: str | None = None
) -> Iterator[pytest.ExceptionInfo[TokenStorageError]]:
    """Check that the block raises an error with this code, and return the error."""
    with pytest.raises(TokenStorageError, match=match) as caught:
        yield caught
    assert caught.value.code == code
