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


def refused(
    call: Callable[[], object], code: str | None = None, text: str = ""
) -> TokenStorageError:
    """Return the error that ``call`` must raise, with this code, if any, and text."""
    with pytest.raises(TokenStorageError) as caught:
        call()
    assert code is None or caught.value.code == code
    assert text in caught.value.message
    return caught.value


@contextmanager
def refuses(
    code: str, match: str | None = None
) -> Iterator[pytest.ExceptionInfo[TokenStorageError]]:
    """Check that the block raises an error with this code, and return the error."""
    with pytest.raises(TokenStorageError, match=match) as caught:
        yield caught
    assert caught.value.code == code
