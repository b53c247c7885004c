"""``keys rotate``: encrypt every secret with the primary key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.keys.compaction import compaction_lines
from nextcloud_mcp_server.cli.keys.listing import census_facts, unopened_lines
from nextcloud_mcp_server.cli.options import database_options
from nextcloud_mcp_server.cli.output import Output, interrupted
from nextcloud_mcp_server.crypto.registration import FORMER, INTRODUCED, V2
from nextcloud_mcp_server.errors import counted

if TYPE_CHECKING:
    from nextcloud_mcp_server.maintenance.keys.census import KnownKey
    from nextcloud_mcp_server.maintenance.keys.rotate import Rotated


@click.command()
@database_options
def rotate(output: Output, option: DatabaseOption) -> int:
    """Encrypt every secret with the primary key.

    Also encrypts what released versions have stored in plain text, and hashes the ids of
    sessions. Servers can run meanwhile. Works in batches; after an interruption, run it again to
    do the rest. Values that no key opens are listed and kept as they are. In the end a file is
    rewritten, so that nothing of what was deleted or replaced stays in it; writes wait meanwhile.
    Never promotes a key: `keys introduce` and `keys promote` do. Exits 1 if values are left that
    it could not store.
    """
    from nextcloud_mcp_server.cli.operation import operation
    from nextcloud_mcp_server.maintenance.keys import rotate as rotation

    settings = option.settings(output)
    ended = interrupted("What was rotated stays so, and the rest is unchanged.")
    with operation(output, interruption=ended) as progress:
        done = rotation.rotate(settings, progress)
    document = {
        **census_facts(done.census),
        "rotated": dict(done.rotated),
        "pending": {name: number for name, number in done.census.pending.items() if number},
        "not_compacted": done.not_compacted or None,
    }
    output.result(document, *_lines(done, connect(settings.database).option))
    return 1 if document["pending"] else 0


def _lines(done: Rotated, option: str) -> Iterator[str]:
    census, primary = done.census, done.census.primary
    name = "" if primary is None else primary.fingerprint
    where = ", ".join(f"{number} in {table}" for table, number in done.rotated.items())
    total = counted(sum(done.rotated.values()), "row")
    yield f"encrypted {total} with key {name}{f' ({where})' if where else ''}"
    yield from compaction_lines(done.not_compacted, option)
    yield from unopened_lines(census)
    if left := {table: number for table, number in census.pending.items() if number}:
        yield f"not stored: {', '.join(f'{number} in {table}' for table, number in left.items())}"
        yield (
            "run it again; if nothing changes, drop the trigger that ignores it (in sqlite3: "
            ".schema), or delete the row of an id that is there as a hash, too"
        )
    else:
        # A key is retired as v2 only after it was as fernet.
        for key in sorted(census.keys, key=lambda key: key.kind):
            if _is_free(key, done):
                flag = " --fernet" if key.kind == "fernet" else ""
                yield (
                    f"no value needs key {key.fingerprint} as {key.kind} any more: "
                    f"nextcloud-mcp-server keys retire {key.fingerprint}{flag} {option}"
                )
    if census.given[0] != name:
        first = census.given[0]
        promote = f"nextcloud-mcp-server keys promote {first} {option}"
        known = {(key.fingerprint, key.kind): key.state for key in census.keys}
        if known.get((first, V2)) not in {INTRODUCED, FORMER}:
            promote = f"nextcloud-mcp-server keys introduce {first} {option} - then {promote}"
        yield f"key {first} is given first and does not encrypt: {promote}"


def _is_free(key: KnownKey, done: Rotated) -> bool:
    """Return whether a key can be retired."""
    if key.state in {None, "primary", "introduced", "retired"}:
        return False
    if key.kind == "fernet":
        kept = (value.reason for value in done.census.unopened)
        return not done.census.by_table(key) and not any("no given key" in one for one in kept)
    return not done.census.by_table(key)
