"""The checks of a database on a server of PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from nextcloud_mcp_server.backends.postgresql.catalog import Place, grants_text, needed_grants
from nextcloud_mcp_server.backends.postgresql.connect import Facts
from nextcloud_mcp_server.backends.postgresql.database import PostgresDatabase
from nextcloud_mcp_server.crypto.keyfile import find_keyring
from nextcloud_mcp_server.errors import TokenStorageError, counted
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.maintenance.doctor.audit import findings as audit_findings
from nextcloud_mcp_server.maintenance.doctor.finding import Finding, Level
from nextcloud_mcp_server.maintenance.doctor.registered import given, registered, secrets_there
from nextcloud_mcp_server.maintenance.keys.census import take_census
from nextcloud_mcp_server.migrate.classify import triggers_on
from nextcloud_mcp_server.migrate.inspect import Inspection
from nextcloud_mcp_server.migrate.summary import plan_line
from nextcloud_mcp_server.progress import silent
from nextcloud_mcp_server.schema.structure import quoted
from nextcloud_mcp_server.settings import Settings, pool_size

#: Seconds by which the clocks of two machines can differ.
_SKEW: Final = 60

#: The part of its numbers that a sequence may have used before it is told.
_NEARLY_ALL: Final = 0.8


@dataclass(frozen=True, slots=True)
class Connected:
    """What the checks use.

    Attributes:
        settings: name the database and the keys.
        database: the database.
        place: its tables, in one read-only transaction.
        facts: what was found at the server.
        inspection: its state.
    """

    settings: Settings
    database: PostgresDatabase
    place: Place
    facts: Facts
    inspection: Inspection


def findings(settings: Settings, url: ServerUrl) -> list[Finding]:
    """Run every check on a server. Changes nothing and raises nothing."""
    database = PostgresDatabase(url)
    try:
        with database.reading() as (place, facts):
            missing = needed_grants(place)
            if "SELECT" in missing:
                return [Finding(Level.ERROR, grants_text(place, missing), check="grants")]
            inspection = Inspection.of(database, place.snapshot(samples=False))
            context = Connected(settings, database, place, facts, inspection)
            return [
                replace(finding, check=name)
                for name, check in CHECKS.items()
                for finding in check(context)
            ]
    except TokenStorageError as error:
        return [Finding(Level.ERROR, f"{error.message} {error.remedy}", check="connection")]


def connection(context: Connected) -> Iterator[Finding]:
    """Name the server, the schema and the role."""
    [row] = context.place.rows(
        "SELECT current_setting('server_version'), current_user, current_database(), "
        "coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false), "
        "inet_server_addr() IS NULL OR inet_server_addr() <<= inet '127.0.0.0/8'"
    )
    version, role, name, encrypted, is_local = row
    way = "directly" if context.facts.direct else "through a pooler"
    what = f"PostgreSQL {version}, database {name}, schema {context.place.schema}, as {role}, {way}"
    yield Finding(Level.OK, what)
    if not (encrypted or is_local or not context.facts.direct):
        what = "the connection is not encrypted: tokens pass the network as they are stored, and"
        what = f"{what} names in plain text; add sslmode=verify-full to the URL"
        yield Finding(Level.WARNING, what)


def state(context: Connected) -> Iterator[Finding]:
    """Check which state a start would find, and whether it would accept it."""
    inspection = context.inspection
    found = inspection.finding
    try:
        plan = inspection.accepted()
        inspection.require_usable()
    except TokenStorageError as error:
        yield Finding(Level.ERROR, f"{error.message} {error.remedy}")
        return
    if inspection.ready:
        yield Finding(Level.OK, f"at-head, {inspection.history.head}")
    else:
        command = f"nextcloud-mcp-server db upgrade {context.database.option}"
        yield Finding(Level.NOTE, f"{found.state}: {found.reason}; {plan_line(plan)}", command)
    if other := context.place.other_schemas():
        what = f"the schema {', '.join(other)} has tables of this program, too"
        yield Finding(Level.NOTE if inspection.ready else Level.WARNING, what)


def triggers(context: Connected) -> Iterator[Finding]:
    """Name the triggers on tables of this program."""
    structure = context.inspection.snapshot.structure
    if found := triggers_on(structure, context.inspection.history):
        names = ", ".join(f"{trigger} on {table}" for trigger, table in sorted(found.items()))
        what = f"{names}: it can change or delete what is stored; drop it if you do not need it"
        yield Finding(Level.WARNING, what)
    else:
        yield Finding(Level.OK, "there is no trigger on the tables")


def grants(context: Connected) -> Iterator[Finding]:
    """Check what the role may do."""
    [(may_create, role)] = context.place.rows(
        "SELECT has_schema_privilege(%s, 'CREATE'), current_user", [context.place.schema]
    )
    if missing := needed_grants(context.place):
        yield Finding(Level.WARNING, grants_text(context.place, missing))
    elif not context.inspection.ready and not may_create:
        schema = quoted(context.place.schema)
        what = f"an upgrade is pending, and the role {role} may not create tables"
        yield Finding(Level.ERROR, what, f"GRANT CREATE ON SCHEMA {schema} TO {quoted(role)}")
    else:
        yield Finding(Level.OK, "the role may read and write every table")


def durability(context: Connected) -> Iterator[Finding]:
    """Check the settings with which a stored token can be lost, and whether it is a standby."""
    for name in context.facts.unsafe:
        what = f"{name} is off: a token that was stored can be lost when the server crashes"
        [(source,)] = context.place.rows(
            "SELECT source FROM pg_catalog.pg_settings WHERE name = %s", [name]
        )
        where = "ALTER SYSTEM" if source in {"configuration file", "default"} else "ALTER ROLE ..."
        yield Finding(Level.WARNING, f"{what} (set by: {source})", f"{where} SET {name} = on")
    if context.facts.read_only:
        yield Finding(Level.WARNING, f"it can only be read: {context.facts.read_only}")
    if not context.facts.unsafe and not context.facts.read_only:
        yield Finding(Level.OK, "what is acknowledged is on the disk of the server")


def keys(context: Connected) -> Iterator[Finding]:
    """Check how many secrets need each key, and how many no given key opens."""
    try:
        ring = find_keyring(context.settings, context.database.location)
    except TokenStorageError as error:
        yield Finding(Level.ERROR, f"{error.message} {error.remedy}")
        return
    # A state that a start refuses is another check's finding.
    census = take_census(context.database, ring, silent, usable=False)
    if ring is None:
        there = secrets_there(census)
        what = f"it holds {counted(there, 'secret')}, and no key was given"
        level = Level.ERROR if there else Level.WARNING
        yield Finding(level, what, "set TOKEN_ENCRYPTION_KEY, the same for every server")
        return
    known = context.place.snapshot(samples=True).keys
    yield from given(census, known, ring)
    yield from registered(census, known, ring, context.database.option)


def audit(context: Connected) -> Iterator[Finding]:
    """Check that nobody without the key has changed the log or a secret."""
    yield from audit_findings(context.settings, context.database.option)


def sequences(context: Connected) -> Iterator[Finding]:
    """Check that the numbers of the rows do not run out."""
    found = context.place.rows(
        "SELECT sequencename, last_value, max_value FROM pg_catalog.pg_sequences "
        "WHERE schemaname = %s AND sequencename = ANY (%s)",
        [context.place.schema, [f"{name}_id_seq" for name in context.place.names]],
    )
    full = [(name, last, most) for name, last, most in found if (last or 0) > most * _NEARLY_ALL]
    for name, last, most in full:
        what = f"{name} has used {last} of {most} numbers: then nothing can be stored"
        yield Finding(Level.ERROR, what)
    if not full:
        yield Finding(Level.OK, "no sequence is nearly used up")


def connections(context: Connected) -> Iterator[Finding]:
    """Check that the server takes the connections of a store."""
    [(most, kept, used, limit)] = context.place.rows(
        "SELECT current_setting('max_connections')::int, "
        "current_setting('superuser_reserved_connections')::int, "
        "(SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend'), "
        "(SELECT min(one) FROM (SELECT rolconnlimit FROM pg_catalog.pg_roles "
        "WHERE rolname = current_user UNION ALL SELECT datconnlimit FROM pg_catalog.pg_database "
        "WHERE datname = current_database()) l (one) WHERE one >= 0)"
    )
    allowed, each = min(most - kept, most if limit is None else limit), pool_size()
    what = f"{used} of {allowed} connections are in use; a store takes up to {each}"
    if allowed - used < each and context.facts.direct:
        yield Finding(Level.WARNING, what, "export TOKEN_STORAGE_POOL_SIZE=4, or raise the limit")
    else:
        yield Finding(Level.OK, what)


def clock(context: Connected) -> Iterator[Finding]:
    """Compare the clock of the server with that of this machine."""
    [(there,)] = context.place.rows("SELECT extract(epoch FROM clock_timestamp())::float8")
    difference = there - time.time()
    if abs(difference) > _SKEW:
        what = f"the clock of the server differs by {difference:.0f} s; tokens expire by this one"
        yield Finding(Level.WARNING, what)
    else:
        yield Finding(Level.OK, "the clock of the server is right")


Check = Callable[[Connected], Iterator[Finding]]

#: Every check by its name, in the order of findings of one level.
CHECKS: Final[Mapping[str, Check]] = MappingProxyType(
    {
        "connection": connection,
        "state": state,
        "triggers": triggers,
        "grants": grants,
        "durability": durability,
        "keys": keys,
        "audit": audit,
        "sequences": sequences,
        "connections": connections,
        "clock": clock,
    }
)
