"""The variables of this program, by who uses them."""

from __future__ import annotations

from typing import Final

#: The variables of the token store.
VARIABLES: Final = (
    "DATABASE_URL",
    "TOKEN_STORAGE_DB",
    "TOKEN_ENCRYPTION_KEY",
    "TOKEN_ENCRYPTION_KEY_FILE",
    "TOKEN_STORAGE_LOCK_TIMEOUT",
    "TOKEN_STORAGE_TRUSTED_OWNERS",
    "TOKEN_STORAGE_FILESYSTEM",
    "TOKEN_STORAGE_POOL_SIZE",
    "AUDIT_RETENTION_DAYS",
)

#: The variables of the server process alone.
SERVER_VARIABLES: Final = (
    "NEXTCLOUD_MCP_HOST",
    "NEXTCLOUD_MCP_PORT",
    "NEXTCLOUD_MCP_LOG_LEVEL",
    "NEXTCLOUD_MCP_LOG_FORMAT",
    "NEXTCLOUD_MCP_ACCESS_LOG",
    "NEXTCLOUD_HOST",
    "NEXTCLOUD_PUBLIC_URL",
    "PUBLIC_URL",
    "READ_ONLY",
    "STATUS_TOKEN",
    "TRUSTED_PROXIES",
    "SHARE_LINKS",
)

#: The variables of `stdio`, which serves one person.
ACCOUNT_VARIABLES: Final = (
    "NEXTCLOUD_HOST",
    "NEXTCLOUD_USERNAME",
    "NEXTCLOUD_PASSWORD",
    "READ_ONLY",
    "SHARE_LINKS",
)

ALL: Final = frozenset((*VARIABLES, *SERVER_VARIABLES, *ACCOUNT_VARIABLES))
