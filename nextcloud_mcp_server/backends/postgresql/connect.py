"""Connect to a server of PostgreSQL, and wait for one that is starting."""

from __future__ import annotations

import logging
import os
import selectors
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nextcloud_mcp_server import forks
from nextcloud_mcp_server.backends.base import WaitInterrupted
from nextcloud_mcp_server.errors import TokenStorageError, without_secrets
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.schema.structure import quoted
from nextcloud_mcp_server.secret import SecretDict, hidden

try:
    import psycopg
    from psycopg import conninfo
    from psycopg.pq import ExecStatus, PGconn, Ping
except ImportError as error:
    # Without libpq psycopg itself raises one.
    raise TokenStorageError(
        "The driver for PostgreSQL is not installed.",
        code="unsupported-database",
        remedy="Install it with the extra: pip install 'nextcloud-mcp-server[postgres]'",
    ) from error

if TYPE_CHECKING:
    from psycopg import AsyncConnection, Connection

logger = logging.getLogger(__name__)

#: What the URL does not say. Without the timeouts a server that vanished is waited for for hours.
_DEFAULTS: Final = {
    "connect_timeout": "10",
    "tcp_user_timeout": "15000",
    "keepalives_idle": "30",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}

#: The oldest release that this is tested with, as ``server_version_num``.
_OLDEST: Final = 150_000

#: Seconds between two attempts to reach a server that is starting.
_PAUSE: Final = 0.2

#: Seconds for which an answer is waited for at a time.
_MOMENT: Final = 0.05

#: Seconds that a ping may take; the least that libpq takes.
_PING_TIMEOUT: Final = "2"

#: What PgBouncer answers while the server behind it is away (it has no other language), and libpq
#: while no host of the URL takes writes, as it asks for: a standby may be promoted soon.
_SOON: Final = (
    "server_login_retry",
    "query_wait_timeout",
    "client_login_timeout",
    "session is read-only",
    "server is in hot standby mode",
)

#: Seconds between two log lines of a wait.
_TELL_INTERVAL: Final = 5.0

#: The longest ``application_name``, in bytes.
_LONGEST_NAME: Final = 63


class Facts(NamedTuple):
    """What a connection finds at the server.

    Attributes:
        schema: the schema that is used.
        read_only: why nothing can be written; empty if it can.
        direct: whether no pooler is between, so that prepared statements are safe.
        unsafe: settings with which an acknowledged write can be lost.
    """

    schema: str
    read_only: str
    direct: bool
    unsafe: tuple[str, ...]


class Server:
    """A server, as one URL names it.

    Args:
        url: its URL.

    Raises:
        TokenStorageError: ``bad-input`` for a URL that libpq cannot read.
    """

    def __init__(self, url: ServerUrl) -> None:
        self.url: Final = url
        try:
            given = hidden(conninfo.conninfo_to_dict(url.conninfo))
        except psycopg.Error as error:
            raise TokenStorageError(
                f"{url} is not a URL that libpq can read.",
                code="bad-input",
                remedy="Give it as in postgresql://user@host:5432/database?sslmode=verify-full; "
                "write @ : / ? # % in a name or password as %40 %3A %2F %3F %23 %25.",
            ) from error.with_traceback(None)
        # The names and texts of this program are UTF-8.
        own = {"client_encoding": "utf8", "application_name": application_name()}
        self.parameters: Final = SecretDict({**_DEFAULTS, **own, **given})
        self.parameters["client_encoding"] = "utf8"
        self._warned = False

    @property
    def conninfo(self) -> str:
        """The connection string, with its password."""
        return conninfo.make_conninfo(**self.parameters)

    def connect(self, *, autocommit: bool = True) -> Connection[Any]:
        """Open a connection that prepares no statement.

        Raises:
            psycopg.Error: it cannot be reached, or refuses.
        """
        return psycopg.connect(self.conninfo, autocommit=autocommit, prepare_threshold=None)

    async def connect_async(self) -> AsyncConnection[Any]:
        """Open a connection for :mod:`asyncio`, as :meth:`connect` without autocommit."""
        return await psycopg.AsyncConnection.connect(self.conninfo, prepare_threshold=None)

    def warn(self, facts: Facts) -> None:
        """Warn once of settings with which a stored token can be lost."""
        if facts.unsafe and not self._warned:
            self._warned = True
            logger.warning(
                "%s has %s off: a token that was stored can be lost when the server crashes. Set "
                "it on",
                self.url,
                " and ".join(facts.unsafe),
            )

    def wait(
        self,
        timeout: float,
        cancelled: Callable[[], bool] = lambda: False,
        *,
        for_nobody: bool = False,
        autocommit: bool = True,
    ) -> Connection[Any]:
        """Open a connection; wait for a server that is starting.

        Args:
            timeout: seconds to wait at most.
            cancelled: polled while waiting; True ends the wait.
            for_nobody: whether to wait for a server that does not answer at all, too.
            autocommit: whether each statement is a transaction.

        Raises:
            TokenStorageError: ``unreachable``; ``interrupted`` if cancelled.
        """
        try:
            return self._wait(timeout, cancelled, for_nobody=for_nobody, autocommit=autocommit)
        except KeyboardInterrupt as error:
            raise WaitInterrupted from error

    def _wait(
        self, timeout: float, cancelled: Callable[[], bool], *, for_nobody: bool, autocommit: bool
    ) -> Connection[Any]:
        begun = told = time.monotonic()
        while True:
            try:
                connection = self.connect(autocommit=autocommit)
                return _answering(connection, begun + timeout, cancelled)
            except psycopg.Error as error:
                found = self._ping(error)
                starting = found == Ping.REJECT or (for_nobody and found == Ping.NO_RESPONSE)
                now = time.monotonic()
                if cancelled():
                    raise interrupted(self.url) from None
                if not starting or now >= begun + timeout:
                    raise unreachable(self.url, error) from None
                if now >= told + _TELL_INTERVAL:
                    told = now
                    logger.warning("Waiting for %s: %s", self.url, reason(error))
            forks.sleep(min(_PAUSE, max(0.0, begun + timeout - now)))

    def _ping(self, error: psycopg.Error) -> int:
        """Return what libpq finds at the server after ``error``."""
        if any(text in str(error) for text in _SOON):
            return Ping.REJECT
        if "certificate" in str(error):
            # For a ping it is a server that does not answer. Where libpq speaks another language
            # than English it is taken for one.
            return Ping.OK
        if isinstance(error, psycopg.errors.ConnectionTimeout):
            # A ping would take as long again.
            return Ping.NO_RESPONSE
        # No other thread of this process runs meanwhile, so it must not take long.
        shortly = self.parameters | {"connect_timeout": _PING_TIMEOUT}
        return PGconn.ping(conninfo.make_conninfo(**shortly).encode())


def _answering(
    connection: Connection[Any], deadline: float, cancelled: Callable[[], bool]
) -> Connection[Any]:
    """Return a connection after its first answer; close it if it gives none.

    A pooler accepts a client whose server is away, and lets its first statement wait.

    Raises:
        psycopg.Error: no answer came before the deadline, or ``cancelled`` returned True.
    """
    driver = connection.pgconn
    try:
        driver.send_query(b"")
        driver.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(driver.socket, selectors.EVENT_READ)
            while driver.is_busy():
                if not selector.select(_MOMENT):
                    if time.monotonic() >= deadline or cancelled():
                        raise psycopg.errors.ConnectionTimeout("it does not answer")
                    forks.sleep(_MOMENT)
                driver.consume_input()
        while (result := driver.get_result()) is not None:
            if result.status == ExecStatus.FATAL_ERROR:
                raise psycopg.OperationalError(result.get_error_message())
    except BaseException:
        connection.close()
        raise
    return connection


def application_name(activity: str = "") -> str:
    """Return the name under which the server lists this process; it is shown to who waits."""
    host = socket.gethostname()[:24]
    name = f"nextcloud-mcp-server {os.getpid()}@{host}"
    if activity:
        name = f"{os.getpid()}@{host}: {activity}"
    return name.encode("ascii", "replace")[:_LONGEST_NAME].decode("ascii")


#: The last column is the schema of the role's own name, if it comes first and may not be used.
_FACTS: Final = """
SELECT current_schema(), pg_catalog.pg_is_in_recovery(),
       pg_catalog.current_setting('default_transaction_read_only'),
       pg_catalog.pg_backend_pid(), pg_catalog.current_setting('server_encoding'),
       pg_catalog.current_setting('server_version_num')::int,
       pg_catalog.current_setting('fsync'), pg_catalog.current_setting('synchronous_commit'),
       (SELECT nspname FROM pg_catalog.pg_namespace
        WHERE nspname = current_user AND nspname <> current_schema()
          AND pg_catalog.current_setting('search_path') LIKE '"$user"%'
          AND NOT pg_catalog.has_schema_privilege(oid, 'USAGE'))
"""


def read_facts(connection: Connection[Any], url: ServerUrl) -> Facts:
    """Read what is to be known about the server, in one statement.

    Raises:
        TokenStorageError: ``unsupported-database`` for an old version or another encoding,
            ``no-schema``.
    """
    [row] = connection.execute(_FACTS).fetchall()
    schema, in_recovery, read_only, pid, encoding, version, fsync, synchronous, closed = row
    if version < _OLDEST:
        raise TokenStorageError(
            f"{url} is PostgreSQL {version // 10000}, and this program needs 15 or newer.",
            code="unsupported-database",
            remedy="Upgrade the server, or keep the tokens in a file (TOKEN_STORAGE_DB).",
        )
    if encoding != "UTF8":
        raise TokenStorageError(
            f"{url} is encoded in {encoding}, and names and tokens need UTF8.",
            code="unsupported-database",
            remedy="Create a database for this program: CREATE DATABASE nextcloud_mcp ENCODING "
            "'UTF8' TEMPLATE template0",
        )
    if schema is None or closed:
        raise no_schema(connection, url)
    reason_ = ""
    if in_recovery:
        reason_ = "the server is a standby"
    elif read_only == "on":
        reason_ = "its transactions are read-only (default_transaction_read_only)"
    unsafe = []
    if fsync == "off":
        unsafe.append("fsync")
    if synchronous == "off":
        unsafe.append("synchronous_commit")
    return Facts(str(schema), reason_, pid == connection.info.backend_pid, tuple(unsafe))


def no_schema(connection: Connection[Any], url: ServerUrl) -> TokenStorageError:
    """Return the error for a search path without a schema that this role can use."""
    [[path, role]] = connection.execute("SELECT current_setting('search_path'), current_user")
    first = path.partition(",")[0].strip() or '"$user"'
    schema = quoted(role) if first == '"$user"' else first
    return TokenStorageError(
        f"{url} has no schema for the tables: {schema}, the first of its search_path ({path}), "
        "does not exist, or this role may not use it.",
        code="no-schema",
        remedy=f"As the owner of the database: CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION "
        f"{quoted(role)}; GRANT USAGE, CREATE ON SCHEMA {schema} TO {quoted(role)}; - or name "
        f"another schema: ALTER ROLE {quoted(role)} SET search_path TO name;",
    )


def interrupted(url: ServerUrl) -> TokenStorageError:
    """Return the error for a start that was asked to stop while it waited."""
    return TokenStorageError(
        f"The start was asked to stop while it waited for {url}; nothing was changed.",
        code="interrupted",
        remedy="Start again.",
    )


def unreachable(url: ServerUrl, error: BaseException) -> TokenStorageError:
    """Return the error for a server that cannot be reached, or refuses the connection."""
    return TokenStorageError(
        f"{url} cannot be used: {reason(error)}.",
        code="unreachable",
        remedy="Check that the server runs and accepts this user from here: psql "
        f"{url.option.removeprefix('-u ')} - then try again.{_about(error)}",
    )


def _about(error: BaseException) -> str:
    """Return what else may help, by the text of libpq or of a pooler."""
    text = str(error)
    if "too many" in text or "remaining connection slots" in text:
        return " To need fewer connections: TOKEN_STORAGE_POOL_SIZE=4."
    if "server login has been failing" in text:
        return " PgBouncer tries again 15 seconds after a failure."
    if "no password supplied" in text:
        return " libpq ignores a password file that others can read (chmod 600)."
    if "unsupported startup parameter" in text:
        return " Set the search_path at the server: ALTER ROLE ... SET search_path TO ..."
    return ""


def reason(error: BaseException) -> str:
    """Return the message of the server or of libpq on one line, without secrets."""
    diagnosis = getattr(error, "diag", None)
    text = getattr(diagnosis, "message_primary", None) or str(error) or type(error).__name__
    # libpq asks a question on a line of its own.
    lines = [line for line in text.splitlines() if not line.startswith("\t")] or [text]
    return " ".join(without_secrets(" ".join(lines)).split()).rstrip(".?")
