"""The group ``db`` with all of its commands."""

from __future__ import annotations

from typing import Final

import click

from nextcloud_mcp_server.cli.db import current
from nextcloud_mcp_server.cli.db.audit import audit
from nextcloud_mcp_server.cli.db.backup import backup
from nextcloud_mcp_server.cli.db.backups import backups
from nextcloud_mcp_server.cli.db.copy import copy
from nextcloud_mcp_server.cli.db.doctor import doctor
from nextcloud_mcp_server.cli.db.downgrade import downgrade
from nextcloud_mcp_server.cli.db.history import history, show
from nextcloud_mcp_server.cli.db.lint import lint
from nextcloud_mcp_server.cli.db.log import log
from nextcloud_mcp_server.cli.db.migrate import migrate
from nextcloud_mcp_server.cli.db.prune import prune
from nextcloud_mcp_server.cli.db.repair import repair
from nextcloud_mcp_server.cli.db.restore import restore
from nextcloud_mcp_server.cli.db.stamp import stamp
from nextcloud_mcp_server.cli.db.upgrade import upgrade
from nextcloud_mcp_server.cli.options import database_options

#: The commands by name; :mod:`nextcloud_mcp_server.cli.root` has their summaries.
db_commands: Final = click.Group(
    "db",
    commands=[
        *(click.command()(database_options(run)) for run in (current.current, current.check)),
        *(audit, backup, backups, copy, doctor, downgrade, history, lint, log, migrate, prune),
        *(repair, restore, show, stamp, upgrade),
    ],
)
