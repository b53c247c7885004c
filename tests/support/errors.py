"""An error as a value, for tests that hold for an answer and for a refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from nextcloud_mcp_server.errors import TokenStorageError

T = TypeVar("T")


def attempt(call: Callable[[], T]) -> T | TokenStorageError:
    """What ``call`` answers, or the named error that it raises."""
    try:
        return call()
    except TokenStorageError as error:
        return error


def refused(call: Callable[[], object]) -> TokenStorageError:
    """The named error that ``call`` must raise."""
    with pytest.raises(TokenStorageError) as caught:
        call()
    return caught.value
