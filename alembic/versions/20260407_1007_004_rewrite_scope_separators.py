"""Write scopes with a dot.

Releases from here on use `notes.read`, earlier ones `notes:read`. The scopes of refresh
tokens and OAuth sessions are the identity provider's, and keep their colons. The downgrade
restores every value that earlier releases wrote: their scopes contained no dot.

Upgrade changes: the scopes of app passwords and login flows: every ":" in them becomes ".".
Downgrade loses: which scopes held a "." before the upgrade; every "." in them becomes ":".

Revision ID: 004
Revises: 003
Create Date: 2026-04-07 10:07
"""

from __future__ import annotations

from alembic import op

revision = "004"
down_revision = "003"
branch_labels = None
depends_on = None

SCOPES = (("app_passwords", "scopes"), ("login_flow_sessions", "requested_scopes"))


def upgrade() -> None:
    """Replace every colon with a dot."""
    replace_in_scopes(":", ".")


def downgrade() -> None:
    """Replace every dot with a colon."""
    replace_in_scopes(".", ":")


def replace_in_scopes(old: str, new: str) -> None:
    """Replace a separator in the rows that have it; the others are not written."""
    for table, column in SCOPES:
        op.execute(
            f"UPDATE {table} SET {column} = REPLACE({column}, '{old}', '{new}') "  # noqa: S608
            f"WHERE {column} LIKE '%{old}%'"
        )
