"""Settings, read from the environment. No other module reads it.

| variable | meaning | default |
|---|---|---|
| ``DATABASE_URL`` | ``postgresql://...`` or ``sqlite:////path``; wins over the next | unset |
| ``TOKEN_STORAGE_DB`` | path of the database file | ``/app/data/tokens.db`` |
| ``TOKEN_ENCRYPTION_KEY`` | Fernet keys separated by ``;``, newest first | unset |
| ``TOKEN_ENCRYPTION_KEY_FILE`` | a file that holds the same | unset |
| ``TOKEN_STORAGE_LOCK_TIMEOUT`` | seconds to wait for the migration lock | 600; embedded 30 |
| ``TOKEN_STORAGE_TRUSTED_OWNERS`` | users whose files are used too, separated by ``,`` | unset |
| ``TOKEN_STORAGE_FILESYSTEM`` | ``local`` or ``remote``, if the type does not tell | detected |
| ``TOKEN_STORAGE_POOL_SIZE`` | connections to a server of PostgreSQL | 8 |
| ``AUDIT_RETENTION_DAYS`` | days after which entries of the audit log are deleted | never |
| ``NEXTCLOUD_HOST`` | the address of Nextcloud, as this server reaches it | unset |
| ``NEXTCLOUD_PUBLIC_URL`` | the address of Nextcloud, as a browser reaches it | the same |
| ``PUBLIC_URL`` | the address of this server for clients and browsers | where it listens |
| ``NEXTCLOUD_USERNAME`` | the login name of the one person of `stdio` | unset |
| ``NEXTCLOUD_PASSWORD`` | an app password of that person | unset |
| ``READ_ONLY`` | ``true``: nothing in Nextcloud is changed | ``false`` |
| ``SHARE_LINKS`` | ``true``: a tool that creates public links | ``false`` |
| ``STATUS_TOKEN`` | who sends it sees ``/status`` and ``/metrics`` | unset: loopback alone |
| ``NEXTCLOUD_MCP_HOST`` | the address to listen on | ``127.0.0.1`` |
| ``NEXTCLOUD_MCP_PORT`` | the port to listen on; 0 for any free one | 8000 |
| ``TRUSTED_PROXIES`` | proxies whose ``X-Forwarded-For`` counts, separated by ``,`` | unset: none |
| ``NEXTCLOUD_MCP_LOG_LEVEL`` | ``debug``, ``info``, ``warning`` or ``error`` | ``info`` |
| ``NEXTCLOUD_MCP_LOG_FORMAT`` | ``text``, or ``json``: one object per line | ``text`` |
| ``NEXTCLOUD_MCP_ACCESS_LOG`` | ``1``: log a line per request; ``0``: do not | ``0`` |
| ``NO_COLOR`` | any text: no colours in a terminal (https://no-color.org) | unset |
"""

from __future__ import annotations

from nextcloud_mcp_server.settings.store import (
    DEFAULT_DATABASE,
    DEFAULT_LOCK_TIMEOUT,
    EMBEDDED_LOCK_TIMEOUT,
    Settings,
    absolute_database,
    database_place,
    declared_file_system,
    load_settings,
    locate,
    pool_size,
    split_keys,
    trusted_owners,
)

__all__ = (
    "DEFAULT_DATABASE",
    "DEFAULT_LOCK_TIMEOUT",
    "EMBEDDED_LOCK_TIMEOUT",
    "Settings",
    "absolute_database",
    "database_place",
    "declared_file_system",
    "load_settings",
    "locate",
    "pool_size",
    "split_keys",
    "trusted_owners",
)
