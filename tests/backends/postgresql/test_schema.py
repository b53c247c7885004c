"""The one schema of the store: its structure, its neighbours, and what the role may do in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.base import Transaction
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.backends.postgresql.database import PostgresDatabase
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from nextcloud_mcp_server.migrate.change import downgrade
from nextcloud_mcp_server.migrate.inspect import inspect
from nextcloud_mcp_server.migrate.startup import prepare
from nextcloud_mcp_server.schema.history import load_history
from nextcloud_mcp_server.schema.structure import gaps
from nextcloud_mcp_server.settings import load_settings
from tests.support.contents import KEY
from tests.support.errors import refuses
from tests.support.postgresql import Server
from tests.support.scripts import add_revision, sql_revision

HISTORY = load_history(engine="postgresql")

#: Another application's version table.
THEIRS = "CREATE TABLE {}.alembic_version (version_num varchar(32) PRIMARY KEY)"


@pytest.fixture
def place(postgresql_server: Server) -> tuple[str, str]:
    """A new schema: its name and its URL."""
    return postgresql_server.schema()


@pytest.mark.parametrize("revision", HISTORY.revisions)
def test_the_generated_file_is_what_the_server_has(place: tuple[str, str], revision: str) -> None:
    """The names, the required columns and the keys of each revision are those of the catalog."""
    database = connect(place[1])
    prepare(database, target=revision)
    there, wanted = database.inspect().structure, HISTORY.structure(revision)
    assert not gaps(there, wanted)
    assert not gaps(wanted, there.without(frozenset({"alembic_version"})))
    for name, table in wanted.tables.items():
        found = there.tables[name]
        assert (found.key, found.required) == (table.key, table.required), name
        # Otherwise every start would compare the types on a connection more.
        assert found is table or revision != HISTORY.head, name


@pytest.mark.parametrize("revision", HISTORY.revisions)
def test_what_is_missing_is_added_as_the_revision_has_it(
    place: tuple[str, str], postgresql_server: Server, revision: str
) -> None:
    """Tables, columns and indexes that an operator dropped come back with the same definition."""
    schema, url = place
    prepare(connect(url), target=revision)
    before = _definitions(postgresql_server, schema)
    for name, table in HISTORY.structure(revision).tables.items():
        if name == "refresh_tokens":
            optional = [n for n, c in table.columns.items() if not (c.required or c.key)]
            postgresql_server.execute(
                *(f"ALTER TABLE {schema}.{name} DROP COLUMN {column}" for column in optional)
            )
        elif name not in {"app_passwords", "oauth_clients", "login_flow_sessions"}:
            postgresql_server.execute(f"DROP TABLE {schema}.{name}")
    prepare(connect(url), target=revision)
    assert _definitions(postgresql_server, schema) == before


def _definitions(server: Server, schema: str) -> set[tuple[Any, ...]]:
    columns = server.execute(
        "SELECT table_name, column_name, data_type, is_nullable, column_default "
        f"FROM information_schema.columns WHERE table_schema = '{schema}'"
    )
    indexes = server.execute(f"SELECT indexdef FROM pg_indexes WHERE schemaname = '{schema}'")
    return {*columns, *indexes}


@pytest.mark.parametrize("theirs", ["010", "", "b7c2d4e1f0aa"])
def test_the_version_table_of_a_schema_behind_ours_is_not_touched(
    postgresql_server: Server, theirs: str
) -> None:
    """With another application's table in the next schema of the search path, ours is made."""
    behind, _ = postgresql_server.schema()
    ours, _ = postgresql_server.schema()
    postgresql_server.execute(THEIRS.format(behind))
    if theirs:
        postgresql_server.execute(f"INSERT INTO {behind}.alembic_version VALUES ('{theirs}')")
    url = postgresql_server.url(options=f"-csearch_path%3D{ours},{behind}")
    assert prepare(connect(url)).action == "create"
    rows = [(theirs,)] if theirs else []
    assert postgresql_server.execute(f"SELECT * FROM {behind}.alembic_version") == rows
    assert postgresql_server.execute(f"SELECT * FROM {ours}.alembic_version") == [(HISTORY.head,)]
    downgrade(connect(url), "base")
    assert postgresql_server.execute(f"SELECT * FROM {behind}.alembic_version") == rows


def test_without_the_own_search_path_the_wrong_table_is_written(
    postgresql_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: SQLAlchemy alone sees the version table of the other schema."""
    from nextcloud_mcp_server.backends.postgresql import locked  # noqa: PLC0415 - patched here

    behind, _ = postgresql_server.schema()
    ours, _ = postgresql_server.schema()
    postgresql_server.execute(
        THEIRS.format(behind), f"INSERT INTO {behind}.alembic_version VALUES ('010')"
    )
    url = postgresql_server.url(options=f"-csearch_path%3D{ours},{behind}")
    settings = locked._SETTINGS.replace("SET LOCAL search_path TO {schema};", "")
    monkeypatch.setattr(locked, "_SETTINGS", settings)
    with refuses("migration-failed"):
        prepare(connect(url))


def test_the_store_uses_its_schema_whatever_the_search_path_is_later(
    postgresql_server: Server,
) -> None:
    """Statements name the schema, so a search path that a pooler left behind is harmless."""
    ours, url = postgresql_server.schema()
    prepare(connect(url))

    async def main() -> list[str]:
        async with RefreshTokenStorage(url, encryption_key=KEY) as storage:
            await storage.store_refresh_token("alice", "token")
            return await storage.list_user_ids()

    import asyncio  # noqa: PLC0415

    assert asyncio.run(main()) == ["alice"]
    rows = postgresql_server.execute(f"SELECT user_id FROM {ours}.refresh_tokens")
    assert rows == [("alice",)]


def test_tables_of_others_in_the_same_schema_are_nobodys_business(
    place: tuple[str, str], postgresql_server: Server
) -> None:
    """A shared schema without a table of ours is new, and theirs stay as they are."""
    schema, url = place
    postgresql_server.execute(f"CREATE TABLE {schema}.invoices (id int)")
    assert inspect(connect(url)).finding.state == "new"
    assert prepare(connect(url)).action == "create"
    downgrade(connect(url), "base")
    assert postgresql_server.execute(f"SELECT count(*) FROM {schema}.invoices") == [(0,)]


def test_a_version_table_of_another_application_is_foreign(
    place: tuple[str, str], postgresql_server: Server
) -> None:
    """With no table of ours it is refused, and the reason says to use a schema of its own."""
    schema, url = place
    postgresql_server.execute(
        THEIRS.format(schema), f"INSERT INTO {schema}.alembic_version VALUES ('b7c2d4e1f0aa')"
    )
    found = inspect(connect(url))
    assert found.finding.state == "foreign"
    assert "a schema of its own" in found.finding.reason
    with refuses("foreign"):
        prepare(connect(url))


def test_a_missing_schema_is_one_refusal_with_both_reasons(postgresql_server: Server) -> None:
    """It is missing, or the role may not use it: the server does not tell which."""
    url = postgresql_server.url(options="-csearch_path%3Dnowhere")
    with refuses("no-schema"):
        prepare(connect(url))
    with refuses("no-schema"):
        inspect(connect(url))


def test_another_encoding_is_refused(postgresql_server: Server) -> None:
    """Names and tokens need UTF8."""
    postgresql_server.execute(
        "CREATE DATABASE latin ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    with refuses("unsupported-database"):
        prepare(connect(postgresql_server.url("latin")))


@pytest.fixture
def role(postgresql_server: Server) -> Iterator[str]:
    """A role without any right."""
    postgresql_server.execute("CREATE ROLE app LOGIN")
    yield "app"
    postgresql_server.execute("DROP OWNED BY app", "DROP ROLE app")


def _as(role: str, url: str) -> str:
    return url.replace("postgres@", f"{role}@")


def test_a_role_that_may_not_create_is_told_the_grant(
    place: tuple[str, str], postgresql_server: Server, role: str
) -> None:
    """The GRANT in the remedy, typed as it is, is what was missing."""
    schema, url = place
    postgresql_server.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    error = refuses("missing-grant")
    with error as caught:
        prepare(connect(_as(role, url)))
    [typed] = [part for part in caught.value.remedy.split(";") if "GRANT" in part]
    postgresql_server.execute(typed.partition(": ")[2])
    assert prepare(connect(_as(role, url))).action == "create"


def test_a_role_with_rights_on_tables_alone_is_warned_of_the_sequences(
    place: tuple[str, str], postgresql_server: Server, role: str
) -> None:
    """It opens for reading, and the reason has the GRANT on each sequence."""
    schema, url = place
    prepare(connect(url))
    postgresql_server.execute(
        f"GRANT USAGE ON SCHEMA {schema} TO {role}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}",
    )
    outcome = prepare(connect(_as(role, url)))
    assert "SEQUENCE" in outcome.read_only
    typed = outcome.read_only.partition(": ")[2]
    postgresql_server.execute(*typed.split("; "))
    assert prepare(connect(_as(role, url))).read_only == ""


def test_a_role_that_may_read_nothing_is_refused(
    place: tuple[str, str], postgresql_server: Server, role: str
) -> None:
    """The catalog shows the tables, and the refusal has the GRANT to type."""
    schema, url = place
    prepare(connect(url))
    postgresql_server.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    with refuses("missing-grant"):
        prepare(connect(_as(role, url)))


def test_a_read_only_server_is_opened_for_reading(
    place: tuple[str, str], postgresql_server: Server
) -> None:
    """At head it starts, and says why; behind, it is refused."""
    schema, url = place
    read_only = postgresql_server.url(
        options=f"-csearch_path%3D{schema}%20-cdefault_transaction_read_only%3Don"
    )
    with refuses("read-only"):
        prepare(connect(read_only))
    prepare(connect(url))
    outcome = prepare(connect(read_only))
    assert (outcome.action, "read-only" in outcome.read_only) == ("nothing", True)


def test_no_key_is_made_for_a_server(place: tuple[str, str]) -> None:
    """Each replica would have its own: the refusal says how to make one for all."""
    import asyncio  # noqa: PLC0415

    with refuses("key-missing"):
        asyncio.run(RefreshTokenStorage(place[1]).initialize())


def test_an_index_with_a_percent_sign_is_created_again(place: tuple[str, str]) -> None:
    """Its definition is executed as it is: for the driver a '%' would begin a parameter."""
    database = connect(place[1])
    prepare(database)
    wanted = HISTORY.structure(HISTORY.head)
    create = "CREATE INDEX op_index ON audit_logs (event) WHERE event LIKE 'a%b'"

    def work(transaction: Transaction) -> str:
        transaction.execute(create)
        before = transaction.structure().indexes["op_index"]
        with transaction.keep_attached(HISTORY.indexes):
            transaction.drop("audit_logs")
            transaction.add(gaps(transaction.structure(), wanted), wanted)
        assert transaction.structure().indexes["op_index"] == before
        return before

    with database.lock(5) as locked:
        assert "a%b" in locked.transact(work)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (sql_revision("CREATE TABLE one (id int)", "SELECT julianday('now')"), "julianday"),
        (sql_revision("UPDATE refresh_tokens SET user_id = NULL"), "null value"),
    ],
)
def test_a_failing_revision_is_named_and_undone(
    place: tuple[str, str], postgresql_server: Server, own_scripts: Path, body: str, reason: str
) -> None:
    """After an error the server answers no question, and the revision is named all the same."""
    schema, url = place
    prepare(connect(url), target="009")
    postgresql_server.execute(
        f"INSERT INTO {schema}.refresh_tokens "
        "(user_id, encrypted_token, created_at, updated_at) VALUES ('alice', 'secret', 1, 1)"
    )
    add_revision(own_scripts, body)
    with refuses("migration-failed", match=f"failed in revision 101: .*{reason}"):
        prepare(connect(url))
    assert inspect(connect(url)).recorded == "009"
    assert postgresql_server.execute(f"SELECT user_id FROM {schema}.refresh_tokens") == [("alice",)]


def test_the_statement_of_a_new_revision_with_a_percent_sign_is_run_as_it_is(
    place: tuple[str, str], own_scripts: Path
) -> None:
    """A revision in a checkout needs no generated file, and what it writes is read back."""
    add_revision(
        own_scripts,
        sql_revision("CREATE TABLE notes (id int PRIMARY KEY, text text DEFAULT '100% sure')"),
    )
    database = connect(place[1])
    assert prepare(database).after == "101"
    assert "notes" in database.inspect().structure.tables


def test_tables_that_are_dropped_during_an_inspection_do_no_harm(
    place: tuple[str, str], postgresql_server: Server
) -> None:
    """A start that inspects while another one migrates sees the tables of its own moment."""
    schema, url = place
    prepare(connect(url), target="009")
    database = PostgresDatabase(ServerUrl(url))
    with database.reading() as (opened, _):
        postgresql_server.execute(f"DROP TABLE {schema}.registered_webhooks")
        structure = opened.structure()
    assert "registered_webhooks" in structure.tables
    # The server has no definition for this moment, and sometimes an error instead.
    assert structure.indexes["idx_webhooks_preset"] is not None


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ("ALTER encrypted_token TYPE text USING encode(encrypted_token, 'hex')", "encrypted_token"),
        ("ALTER expires_at TYPE text", "expires_at"),
    ],
)
def test_a_column_of_another_type_is_refused_by_name(
    place: tuple[str, str], postgresql_server: Server, change: str, column: str
) -> None:
    """A start would serve a table that no call of the store can use."""
    schema, url = place
    prepare(connect(url))
    postgresql_server.execute(f"ALTER TABLE {schema}.refresh_tokens {change}")
    with refuses("inconsistent", match=f"refresh_tokens: the type of {column} was changed"):
        prepare(connect(url))
    assert diagnose(load_settings({}, database=url)).worst == "error"


def test_wider_types_of_the_same_kind_are_used(
    place: tuple[str, str], postgresql_server: Server
) -> None:
    """An operator may have made a text shorter, or a number larger."""
    schema, url = place
    prepare(connect(url))
    postgresql_server.execute(
        f"ALTER TABLE {schema}.refresh_tokens ALTER scopes TYPE varchar(999)",
        f"ALTER TABLE {schema}.refresh_tokens ALTER expires_at TYPE numeric",
    )
    assert prepare(connect(url)).action == "nothing"


def test_the_doctor_names_a_missing_select(
    place: tuple[str, str], postgresql_server: Server, role: str
) -> None:
    """It has the GRANT to type, and does not send the reader to itself."""
    schema, url = place
    prepare(connect(url))
    postgresql_server.execute(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    [found] = diagnose(load_settings({}, database=_as(role, url))).findings
    assert (found.level, found.check) == ("error", "grants")
    assert f'GRANT SELECT ON "{schema}"."' in found.message


def test_a_schema_of_the_roles_own_that_it_may_not_use_is_refused(
    postgresql_server: Server, role: str
) -> None:
    """Otherwise a new, empty store would be made in the next schema of the search path."""
    postgresql_server.execute(
        f"CREATE SCHEMA {role}", f"GRANT CREATE, USAGE ON SCHEMA public TO {role}"
    )
    try:
        with refuses("no-schema", match=f'"{role}", the first of its search_path'):
            prepare(connect(_as(role, postgresql_server.url())))
    finally:
        postgresql_server.execute(f"DROP SCHEMA {role}")


def test_tables_of_a_store_in_another_schema_are_told_before_new_ones_are_made(
    place: tuple[str, str], postgresql_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody may have renamed the schema, or lost its grants."""
    _, url = postgresql_server.schema()
    prepare(connect(url))
    caplog.clear()
    prepare(connect(place[1]))
    assert "has tables of this program: if those are meant" in caplog.text


def test_lost_secrets_have_a_way_on_without_them(
    place: tuple[str, str], postgresql_server: Server
) -> None:
    """The remedy names no command that works on files only, and does what it says."""
    schema, url = place
    prepare(connect(url))
    postgresql_server.execute(f"DROP TABLE {schema}.app_passwords")
    with refuses("inconsistent") as caught:
        prepare(connect(url))
    assert not any(name in caught.value.remedy for name in ("db restore", "db repair", "backups"))
    postgresql_server.execute(f"DROP TABLE {schema}.migration_journal")
    assert prepare(connect(url)).after == HISTORY.head


def test_a_version_table_with_numbers_is_read(
    place: tuple[str, str], postgresql_server: Server
) -> None:
    """A tool for tables may have changed its type."""
    schema, url = place
    prepare(connect(url))
    postgresql_server.execute(
        f"ALTER TABLE {schema}.alembic_version ALTER version_num TYPE int USING version_num::int"
    )
    assert prepare(connect(url)).action == "nothing"
