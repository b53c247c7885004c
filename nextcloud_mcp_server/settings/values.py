"""What the readers of several variables share."""

from __future__ import annotations

from collections.abc import Mapping

from nextcloud_mcp_server.errors import TokenStorageError, without_secrets


def whole_number(text: str, least: int, most: int) -> int | None:
    """Return the number that ``text`` is; None if it is none, or out of range."""
    # Not longer than the limit: Python refuses to convert thousands of digits.
    if text.isascii() and text.isdigit() and len(text) <= len(str(most)):
        number = int(text)
        return number if least <= number <= most else None
    return None


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
