"""Every public method of the store, with what makes its arguments and what reads them back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.faults import inputs
from tests.faults.inputs import Value


@dataclass(frozen=True)
class Method:
    """One public method, what it takes, and how what it has stored is read back.

    Attributes:
        path: its name, from the store.
        takes: what makes each argument.
        reads: the method that reads it back, and the argument that it is found by.
        names: attributes that are not named as the argument is.
        none_for_empty: arguments of which an empty list is kept as None.
        unless_none: arguments that mean something else where they are None.
    """

    path: str
    takes: Mapping[str, Value]
    reads: tuple[str, str | None] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    none_for_empty: frozenset[str] = frozenset()
    unless_none: frozenset[str] = frozenset()


METHODS: Final = (
    Method(
        "store_refresh_token",
        {
            "user_id": inputs.text,
            "refresh_token": inputs.secret,
            "expires_at": inputs.or_none(inputs.seconds),
            "scopes": inputs.or_none(inputs.scopes),
            "flow_type": inputs.flow,
            "token_audience": inputs.text,
            "provisioned_at": inputs.or_none(inputs.seconds),
            "provisioning_client_id": inputs.or_none(inputs.text),
        },
        ("get_refresh_token", "user_id"),
        {"refresh_token": "token"},
        frozenset({"scopes"}),
        frozenset({"provisioned_at"}),
    ),
    Method(
        "profiles.store",
        {"user_id": inputs.text, "profile": inputs.profile},
        ("profiles.get", "user_id"),
    ),
    Method(
        "store_user_profile",
        {"user_id": inputs.text, "profile": inputs.profile},
        ("profiles.get", "user_id"),
    ),
    Method(
        "app_passwords.store",
        {
            "user_id": inputs.text,
            "password": inputs.secret,
            "scopes": inputs.or_none(inputs.scopes),
            "username": inputs.or_none(inputs.text),
        },
        ("app_passwords.get", "user_id"),
    ),
    Method(
        "oauth_clients.store",
        {
            "client_id": inputs.text,
            "client_secret": inputs.secret,
            "redirect_uris": inputs.uris,
            "client_id_issued_at": inputs.or_none(inputs.seconds),
            "client_secret_expires_at": inputs.seconds,
            "registration_access_token": inputs.or_none(inputs.secret),
            "registration_client_uri": inputs.or_none(inputs.text),
        },
        ("oauth_clients.get", None),
        unless_none=frozenset({"client_id_issued_at"}),
    ),
    Method(
        "oauth_sessions.create",
        {
            "session_id": inputs.text,
            "client_redirect_uri": inputs.text,
            "expires_at": inputs.seconds,
            **dict.fromkeys(
                ("client_id", "state", "code_challenge", "nonce"), inputs.or_none(inputs.text)
            ),
            **dict.fromkeys(
                ("code_challenge_method", "mcp_authorization_code"), inputs.or_none(inputs.text)
            ),
            "idp_access_token": inputs.or_none(inputs.secret),
            "idp_refresh_token": inputs.or_none(inputs.secret),
            "user_id": inputs.or_none(inputs.text),
            "flow_type": inputs.flow,
            "requested_scopes": inputs.or_none(inputs.scopes),
            "granted_scopes": inputs.or_none(inputs.scopes),
            "is_provisioning": inputs.flag,
        },
        ("oauth_sessions.get", "session_id"),
    ),
    Method(
        "oauth_sessions.update",
        {
            "session_id": inputs.text,
            "user_id": inputs.or_none(inputs.text),
            "idp_access_token": inputs.or_none(inputs.secret),
            "idp_refresh_token": inputs.or_none(inputs.secret),
            "granted_scopes": inputs.or_none(inputs.scopes),
            "mcp_authorization_code": inputs.or_none(inputs.text),
        },
        ("oauth_sessions.get", "session_id"),
        unless_none=frozenset(
            {
                "user_id",
                "idp_access_token",
                "idp_refresh_token",
                "granted_scopes",
                "mcp_authorization_code",
            }
        ),
    ),
    Method(
        "login_flows.store",
        {
            "user_id": inputs.text,
            "poll_token": inputs.secret,
            "poll_endpoint": inputs.text,
            "expires_at": inputs.seconds,
            "requested_scopes": inputs.or_none(inputs.scopes),
        },
        ("login_flows.get", "user_id"),
        none_for_empty=frozenset({"requested_scopes"}),
    ),
    Method(
        "browser_sessions.create",
        {"session_id": inputs.text, "user_id": inputs.text, "expires_at": inputs.seconds},
        ("browser_sessions.get", "session_id"),
    ),
    Method(
        "audit.add",
        {
            "event": inputs.text,
            "user_id": inputs.text,
            "resource_type": inputs.or_none(inputs.text),
            "resource_id": inputs.or_none(inputs.text),
            "auth_method": inputs.or_none(inputs.text),
        },
    ),
    Method(
        "audit.list",
        {
            "user_id": inputs.or_none(inputs.text),
            "since": inputs.seconds,
            "limit": inputs.one_of((1, 5, 10_000), (0, -1, 10_001, True, 1.0, None, "5", 2**70)),
        },
    ),
    *(
        Method(path, {"user_id": inputs.text})
        for path in (
            *("get_refresh_token", "delete_refresh_token", "get_user_profile", "profiles.get"),
            *("app_passwords.get", "app_passwords.delete", "login_flows.get", "login_flows.delete"),
            *("browser_sessions.list_for_user", "browser_sessions.delete_for_user"),
        )
    ),
    *(
        Method(path, {"session_id": inputs.text})
        for path in (
            *("oauth_sessions.get", "oauth_sessions.delete", "browser_sessions.get"),
            *("browser_sessions.get_user_id", "browser_sessions.delete"),
        )
    ),
    Method("oauth_sessions.get_by_code", {"mcp_authorization_code": inputs.text}),
    Method("oauth_sessions.get_by_state", {"state": inputs.text}),
    *(
        Method(path, {})
        for path in (
            *("list_user_ids", "delete_expired_refresh_tokens", "app_passwords.list_user_ids"),
            *("oauth_clients.get", "oauth_clients.delete", "oauth_sessions.delete_expired"),
            *("login_flows.delete_expired", "browser_sessions.delete_expired"),
        )
    ),
)
