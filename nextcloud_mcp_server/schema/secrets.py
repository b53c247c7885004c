"""Which columns hold secrets, and what each of them is bound to: data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from nextcloud_mcp_server.schema.forms import HASH
from nextcloud_mcp_server.secret import hidden


class SecretColumn(NamedTuple):
    """A column that is encrypted.

    Attributes:
        table: its table.
        column: its name.
        label: what the secret is, for its associated data. It never changes, whatever happens
            to the table.
        bound: the columns whose values are authenticated with it: the key of the row, and what
            must not be exchanged beside it.
    """

    table: str
    column: str
    label: str
    bound: tuple[str, ...]


SECRETS: Final = (
    SecretColumn(
        "refresh_tokens", "encrypted_token", "refresh_token", ("user_id", "token_audience")
    ),
    SecretColumn("refresh_tokens", "user_profile", "user_profile", ("user_id",)),
    # A password must not be sent to another server.
    SecretColumn("app_passwords", "encrypted_password", "app_password", ("user_id", "server")),
    SecretColumn("oauth_clients", "encrypted_client_secret", "client_secret", ("client_id",)),
    SecretColumn(
        "oauth_clients",
        "encrypted_registration_access_token",
        "registration_access_token",
        # It is sent there.
        ("client_id", "registration_client_uri"),
    ),
    SecretColumn(
        "login_flow_sessions", "encrypted_poll_token", "poll_token", ("user_id", "poll_endpoint")
    ),
    SecretColumn("oauth_sessions", "idp_access_token", "idp_access_token", ("session_id",)),
    SecretColumn("oauth_sessions", "idp_refresh_token", "idp_refresh_token", ("session_id",)),
    SecretColumn("oauth_sessions", "nonce", "nonce", ("session_id",)),
    SecretColumn("oauth_sessions", "encrypted_state", "state", ("session_id",)),
    # It is sent to no other server than the one that has issued it.
    SecretColumn(
        "oauth_sessions", "encrypted_poll_token", "login", ("session_id", "poll_endpoint")
    ),
)

#: The columns that hold the hash of an id which is a credential, as (table, column), where released
#: versions have stored the id itself. Newer columns never hold anything but a hash.
HASHED: Final = (
    ("oauth_sessions", "session_id"),
    ("oauth_sessions", "mcp_authorization_code"),
    ("oauth_sessions", "state"),
    ("browser_sessions", "session_id"),
)

_ENCRYPTED: Final = frozenset((secret.table, secret.column) for secret in SECRETS)
_HASHED: Final = frozenset(HASHED)


def secrets_of(table: str) -> dict[str, SecretColumn]:
    """Return the secrets of a table, by column."""
    return {secret.column: secret for secret in SECRETS if secret.table == table}


def hiding(table: str, column: str) -> Callable[[Any], Any] | None:
    """Return what hides a value that is read from a column; None if it has no secret.

    Released versions have stored some secrets in plain text.
    """
    if (table, column) in _ENCRYPTED:
        return hidden
    return _hidden_id if (table, column) in _HASHED else None


def _hidden_id(value: Any) -> Any:
    return value if type(value) is str and value.startswith(HASH.prefix) else hidden(value)
