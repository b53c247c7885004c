"""Return an error as a value, for tests of both the result and the error."""

from __future__ import annotations

from collections.abc import Callable
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


def refused(call: Callable[[], object]) -> TokenStorageError:
    """Return the error that ``call`` must raise."""
    with pytest.raises(TokenStorageError) as caught:
        call()
    return caught.value
