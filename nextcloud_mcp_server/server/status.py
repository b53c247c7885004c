"""What an operator asks about a running server: its database, backups, keys and grants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nextcloud_mcp_server import __version__
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.base import Database
from nextcloud_mcp_server.errors import CODES, TokenStorageError
from nextcloud_mcp_server.migrate import journal
from nextcloud_mcp_server.pages.frame import page
from nextcloud_mcp_server.pages.html import Html, html, joined
from nextcloud_mcp_server.server.health import HealthCheck
from nextcloud_mcp_server.server.metrics import Metrics

if TYPE_CHECKING:
    from starlette.responses import HTMLResponse

#: Entries of the journal that are shown.
_ENTRIES: Final = 5


#: What a word of the page means, by itself or with its value.
_MEANINGS: Final[Mapping[str, str]] = {
    "head": "the newest revision of this program",
    "wal_bytes": "bytes of changes that are not yet in the main file",
    "fingerprint": "the name of the key; it tells nothing of it",
    "kind=v2": "encrypts in the form of this version",
    "kind=fernet": "opens what earlier versions have encrypted",
    "state=at-head": "the schema is the newest",
    "state=introduced": "opens values; encrypts none yet",
    "state=primary": "encrypts what is stored now",
    "state=former": "opens what is not rotated yet",
    "state=retired": "no value needs it",
    "active": "clients that have access",
    "expired": "nobody has used them for too long",
    "revoked": "ended by a person or a client",
    "reused": "ended, as somebody used an old token again: perhaps a copy",
}


class Status:
    """The status of a server whose store is open."""

    def __init__(
        self,
        database: Database,
        storage: RefreshTokenStorage,
        health: HealthCheck,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._storage = storage
        self._health = health
        self._metrics = metrics

    async def facts(self) -> dict[str, Any]:
        """Return everything; a part that cannot be read is ``{"reason": ...}``.

        No part has a secret, a user or a client.
        """
        health = await self._health.check()
        parts = (self._backups, self._keys, self._migrations)
        backups, keys, migrations = await asyncio.to_thread(lambda: [_part(one) for one in parts])
        try:
            grants: dict[str, Any] = dict(await self._storage.mcp_grants.count_by_state())
        except TokenStorageError as error:
            grants = _reason(error)
        return {
            "version": __version__,
            "database": {"engine": self._database.history.engine, **health.as_dict()},
            "backups": backups,
            "keys": keys,
            "migrations": migrations,
            "grants": grants,
        }

    async def metrics(self) -> bytes:
        """Return the text for Prometheus."""
        outcome = self._storage.outcome
        if outcome is None:
            raise AssertionError("an open store has an outcome")
        try:
            grants = await self._storage.mcp_grants.count_by_state()
        except TokenStorageError:
            grants = {}

        def text() -> bytes:
            newest = _part(lambda: journal.read(self._database, 1) or [])
            entry = newest[0] if isinstance(newest, list) and newest else None
            return self._metrics.text(outcome, grants, entry)

        return await asyncio.to_thread(text)

    def _backups(self) -> dict[str, Any]:
        # It imports what only a database file needs.
        from nextcloud_mcp_server.maintenance.backups import list_backups  # noqa: PLC0415

        if not isinstance(self._database.location, Path):
            return {"reason": "A database on a server has no backups of this program."}
        found = list_backups(self._database.location)
        newest = found[0] if found else None
        return {
            "count": len(found),
            "newest": newest
            and {
                "name": newest.path.name,
                "made_at": newest.made_at.isoformat(),
                "revision": newest.revision,
                "status": newest.status,
            },
        }

    def _keys(self) -> list[dict[str, str]]:
        registered = self._database.inspect(samples=True).keys
        return [
            {"fingerprint": key.fingerprint, "kind": key.kind, "state": key.state}
            for key in registered
        ]

    def _migrations(self) -> list[dict[str, Any]]:
        return [
            {
                "at": entry.happened_at
                and datetime.fromtimestamp(entry.happened_at, UTC).isoformat(),
                "action": entry.action,
                "from": entry.before,
                "to": entry.after,
                "seconds": entry.seconds,
                "version": entry.program_version,
            }
            for entry in journal.read(self._database, _ENTRIES) or []
        ]


def _part(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except TokenStorageError as error:
        return _reason(error)


def _reason(error: TokenStorageError) -> dict[str, Any]:
    return {"reason": CODES[error.code]}


def status_page(facts: Mapping[str, Any]) -> HTMLResponse:
    """Return the facts as a page."""
    parts = (
        html("<h2>{name}</h2>\n{part}", name=name.capitalize(), part=_shown(part))
        for name, part in facts.items()
        if not isinstance(part, str)
    )
    body = html("<p>Version {version}</p>\n{parts}", version=facts["version"], parts=joined(parts))
    return page("Status", body)


def _meaning(name: str, fact: object) -> Html:
    text = _MEANINGS.get(f"{name}={fact}") or _MEANINGS.get(name)
    return html(" ({text})", text=text) if text else Html("")


def _shown(part: object) -> Html:
    if isinstance(part, Mapping):
        rows = (
            html(
                "<dt>{name}</dt><dd>{fact}{meaning}</dd>",
                name=name.replace("_", " "),
                fact=_shown(fact),
                meaning=_meaning(name, fact),
            )
            for name, fact in part.items()
        )
        return html("<dl>\n{rows}\n</dl>", rows=joined(rows))
    if isinstance(part, list):
        items = joined(html("<li>{item}</li>", item=_shown(one)) for one in part)
        return html("<ul>\n{items}\n</ul>", items=items) if part else Html("<p>None.</p>")
    if isinstance(part, bool):
        return Html("yes" if part else "no")
    return html("{fact}", fact="none" if part is None else part)
