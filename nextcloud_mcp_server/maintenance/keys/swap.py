"""Store a row with other ciphertexts and hashes, if it was not changed since it was read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import (
    ColumnClause,
    ColumnElement,
    PrimaryKeyConstraint,
    UniqueConstraint,
    Update,
    bindparam,
    column,
    literal,
    select,
    table,
    update,
)

from nextcloud_mcp_server.auth.app_passwords import AppPasswords
from nextcloud_mcp_server.auth.browser_sessions import BrowserSessions
from nextcloud_mcp_server.auth.login_flows import LoginFlows
from nextcloud_mcp_server.auth.oauth_clients import OAuthClients
from nextcloud_mcp_server.auth.oauth_sessions import OAuthSessions
from nextcloud_mcp_server.auth.refresh_tokens import RefreshTokens
from nextcloud_mcp_server.schema.tables import metadata

if TYPE_CHECKING:
    from nextcloud_mcp_server.auth.concern import Concern
    from nextcloud_mcp_server.auth.context import Access
    from nextcloud_mcp_server.backends.base import Connection
    from nextcloud_mcp_server.crypto.key import Key

#: The event in the audit log.
EVENT: Final = "rotate_secret"

_CONCERNS: Final[Mapping[str, type[Concern]]] = {
    concern._table: concern
    for concern in (
        RefreshTokens,
        AppPasswords,
        OAuthClients,
        LoginFlows,
        OAuthSessions,
        BrowserSessions,
    )
}


class RowChange(NamedTuple):
    """The replacement of values of one row.

    Attributes:
        table: the name of the table.
        place: what tells the row from the others, such as its key.
        at: the value of ``place`` for the row.
        old: the columns of the row that must be as they were read: at least those of ``new``, and
            those that name the row in the audit log.
        new: the columns to replace.
    """

    table: str
    place: ColumnElement[Any]
    at: Any
    old: Mapping[str, Any]
    new: Mapping[str, Any]


def rotate_row(connection: Connection, access: Access, change: RowChange, key: Key) -> bool:
    """Replace values of a row and record it; False, and nothing is changed, if it has others.

    A row with an id that another one has already is not changed either. ``key`` has encrypted the
    new values.
    """
    old, new = change.old, change.new
    parameters = {"at": change.at} | {f"old_{name}": value for name, value in old.items()}
    parameters |= {f"new_{name}": value for name, value in new.items()}
    if not connection.run(_swap(change.table, change.place, tuple(old), tuple(new)), parameters):
        return False
    concern = _CONCERNS[change.table](access)
    row = {concern._key: old.get(concern._key), **new}
    concern._record(connection, EVENT, old.get("user_id"), at=access.now(), row=row, used=key)
    return True


@lru_cache
def _swap(
    name: str, place: ColumnElement[Any], compared: tuple[str, ...], changed: tuple[str, ...]
) -> Update:
    """Return the compare and swap of the columns ``changed`` of one row."""
    # Columns without a type: a value is bound as it was read, as TEXT or as BLOB.
    columns: dict[str, ColumnClause[Any]] = {one: column(one) for one in compared}
    same = (c.is_not_distinct_from(bindparam(f"old_{one}")) for one, c in columns.items())
    others = table(name, *(column(one) for one in changed)).alias("others")
    free = (
        ~select(literal(1))
        .select_from(others)
        .where(others.c[one] == bindparam(f"new_{one}"))
        .exists()
        for one in changed
        if _is_unique(name, one)
    )
    return (
        update(table(name, *columns.values()))
        .where(place == bindparam("at"), *same, *free)
        .values({one: bindparam(f"new_{one}") for one in changed})
    )


def _is_unique(name: str, one: str) -> bool:
    return any(
        isinstance(constraint, PrimaryKeyConstraint | UniqueConstraint)
        and constraint.columns.keys() == [one]
        for constraint in metadata.tables[name].constraints
    )
