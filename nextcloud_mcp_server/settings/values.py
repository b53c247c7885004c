"""What the readers of several variables share."""

from __future__ import annotations

import os
from collections.abc import Mapping

from nextcloud_mcp_server.errors import TokenStorageError, without_secrets
from nextcloud_mcp_server.secret import SecretDict


def environment(environ: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return the environment, None for that of the process, hidden: it has keys and passwords."""
    if isinstance(environ, SecretDict):
        return environ
    return SecretDict(os.environ if environ is None else environ)


def shown(text: str) -> str:
    """Return the beginning of a value for a message, without a secret."""
    return repr(without_secrets(text)[:20])


def one_of(name: str, text: str, values: tuple[str, ...]) -> str:
    """Return the one of ``values`` that ``text`` is; ``bad-input`` for another."""
    if (value := text.strip().lower()) in values:
        return value
    raise TokenStorageError(
        f"{name} is {shown(text)}, which is not one of {', '.join(values)}.",
        code="bad-input",
        remedy=f"Set it to one of {', '.join(values)}, or unset it.",
    )


def flag(environ: Mapping[str, str], name: str) -> bool:
    """Return whether a variable is ``true``; not set, it is ``false``."""
    return one_of(name, environ.get(name) or "false", ("true", "false")) == "true"


def number(
    environ: Mapping[str, str], name: str, least: int, most: int, *, of: str, example: int
) -> int | None:
    """Return the whole number in a variable; None if it is not set.

    Args:
        environ: the environment.
        name: the variable.
        least: the smallest number.
        most: the largest number.
        of: what it is, for the message.
        example: a usual number, for the message.

    Raises:
        TokenStorageError: ``bad-input`` for another text, and for a number out of range.
    """
    if not (text := environ.get(name, "").strip()):
        return None
    # Not longer than the limit: Python refuses to convert thousands of digits.
    if text.isascii() and text.isdigit() and len(text) <= len(str(most)):
        found = int(text)
        if least <= found <= most:
            return found
    raise TokenStorageError(
        f"{name} is {shown(text)}, which is not {of}.",
        code="bad-input",
        remedy=f"Set it to a whole number from {least} to {most}, for example {example}, "
        "or unset it.",
    )
