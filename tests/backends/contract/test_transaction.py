"""A migration is one transaction: it is kept or undone as a whole, and invisible before."""

from __future__ import annotations

from contextlib import suppress

import pytest

from nextcloud_mcp_server.backends.base import Database, Transaction
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.migrate.classify import TEMPORARY
from nextcloud_mcp_server.migrate.startup import prepare
from nextcloud_mcp_server.progress import silent
from nextcloud_mcp_server.schema.structure import gaps

_STORE = (
    "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at) "
    "VALUES (:user, 'secret', 1, 1)"
)


@pytest.fixture
def database(database: Database) -> Database:
    """A database at head."""
    prepare(database)
    return database


def _tables(database: Database) -> set[str]:
    return set(database.inspect().structure.tables)


def test_nothing_is_visible_before_the_commit(database: Database, place: str) -> None:
    """Another connection reads the old tables until the commit."""

    def work(transaction: Transaction) -> None:
        transaction.execute("CREATE TABLE registered_webhooks (id INTEGER)")
        assert "registered_webhooks" in transaction.structure().tables
        assert "registered_webhooks" not in _tables(connect(place))

    with database.lock(5) as locked:
        locked.transact(work)
    assert "registered_webhooks" in _tables(database)


def test_an_error_undoes_everything(database: Database) -> None:
    """Tables and rows are as before, and the error of the caller is raised."""

    def work(transaction: Transaction) -> None:
        transaction.execute(_STORE, {"user": "alice"})
        transaction.execute("DROP TABLE audit_logs")
        raise LookupError("mine")

    with database.lock(5) as locked:
        with pytest.raises(LookupError, match="mine"):
            locked.transact(work)
        counted = locked.transact(lambda t: t.row_counts(t.structure()))
    assert counted["refresh_tokens"] == counted["audit_logs"] == 0


def test_work_that_hides_an_error_is_committed_completely_or_fails(database: Database) -> None:
    """If the call returns, everything is committed; an engine that cannot commit must raise."""

    def work(transaction: Transaction) -> None:
        transaction.execute(_STORE, {"user": "alice"})
        with suppress(Exception):
            transaction.execute("SELECT nothing FROM nowhere")
        transaction.execute(_STORE, {"user": "bob"})

    with database.lock(5) as locked:
        acknowledged = True
        try:
            locked.transact(work)
        except Exception:  # noqa: BLE001 - any error means that nothing was committed
            acknowledged = False
        assert locked.transact(lambda t: t.count("refresh_tokens")) == (2 if acknowledged else 0)


def test_a_backup_has_the_rows_from_before(database: Database) -> None:
    """It has no write of the transaction; a transaction that fails leaves no backup."""
    failed = []

    def work(transaction: Transaction) -> object:
        made = transaction.backup("101", action="upgrade", keys=None, report=silent)
        transaction.execute(_STORE, {"user": "alice"})
        return made

    def failing(transaction: Transaction) -> None:
        failed.append(transaction.backup("101", action="upgrade", keys=None, report=silent))
        raise LookupError

    with database.lock(5) as locked:
        with pytest.raises(LookupError):
            locked.transact(failing)
        backup = locked.transact(work)
    if backup is not None:
        assert failed[0] is not None
        assert not failed[0].exists()
        copy = connect(str(backup))
        with copy.lock(5) as locked:
            assert locked.transact(lambda t: t.count("refresh_tokens")) == 0


def test_missing_objects_are_added(database: Database) -> None:
    """Missing tables, columns and indexes are added as the revision declares them."""
    wanted = database.history.structure(database.history.head)

    def work(transaction: Transaction) -> None:
        transaction.drop("audit_logs")
        transaction.execute("DROP INDEX idx_oauth_sessions_state")
        transaction.execute("ALTER TABLE oauth_sessions DROP COLUMN nonce")
        missing = gaps(transaction.structure(), wanted)
        assert missing
        transaction.add(missing, wanted)
        assert not gaps(transaction.structure(), wanted)

    with database.lock(5) as locked:
        locked.transact(work)
    assert not gaps(database.inspect().structure, wanted)


def test_an_interrupted_recreation_is_finished_or_undone(database: Database) -> None:
    """The filled copy gets its name back, and a disposable table is recreated with its rows."""
    head = database.history.structure(database.history.head)

    def work(transaction: Transaction) -> None:
        transaction.execute(_STORE, {"user": "alice"})
        transaction.execute(f"ALTER TABLE refresh_tokens RENAME TO {TEMPORARY}refresh_tokens")
        transaction.rename_back(["refresh_tokens"], TEMPORARY)
        transaction.execute("ALTER TABLE batch_ocr_jobs ADD COLUMN draft TEXT")
        transaction.recreate(["batch_ocr_jobs"], head)
        assert transaction.count("refresh_tokens") == 1
        assert "draft" not in transaction.structure().tables["batch_ocr_jobs"].columns

    with database.lock(5) as locked:
        locked.transact(work)


def test_operator_indexes_are_kept(database: Database) -> None:
    """An operator's index on a recreated table is created again."""

    def work(transaction: Transaction) -> None:
        transaction.execute("CREATE INDEX op_by_time ON audit_logs (timestamp)")
        wanted = database.history.structure(database.history.head)
        with transaction.keep_attached(database.history.indexes):
            transaction.drop("audit_logs")
            transaction.add(gaps(transaction.structure(), wanted), wanted)
        assert "op_by_time" in transaction.structure().indexes

    with database.lock(5) as locked:
        locked.transact(work)


def test_versions_and_references_are_read(database: Database) -> None:
    """A new database has one version row and no broken reference."""
    with database.lock(5) as locked:
        versions, broken = locked.transact(lambda t: (t.versions(), t.broken_references()))
    assert (versions, broken) == ((database.history.head,), set())
