"""The database: an engine, transactions, and the seam where its faults become ours."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from shared.errors import ServiceUnavailable

BUSY_S: Final = 10
"""How long a statement waits for a lock of another process, and a request for a connection."""


class Database:
    """Transactions on one database. Thread-safe.

    `read` and `write` raise `ServiceUnavailable` when the database does not answer or is too busy; nothing of
    the transaction was stored then, except that a commit whose answer got lost may have been.
    """

    def __init__(self, url: URL) -> None:
        self.is_sqlite: Final = url.get_backend_name() == "sqlite"
        self.engine: Final = _sqlite(url) if self.is_sqlite else _postgresql(url)
        self._writer = self.engine.execution_options(writes=True)
        # SQLite has one writer at a time and lets the others sleep for growing pauses; a lock hands over.
        self._turn: Any = threading.Lock() if self.is_sqlite else nullcontext()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state and changes nothing."""
        with translated_database_errors(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is committed at the end, or rolled back by any exception."""
        with translated_database_errors(), self._turn, self._writer.begin() as connection:
            yield connection

    def hold_user(self, connection: Connection, user_id: str) -> None:
        """No other transaction that holds this user goes past here until this one ends.

        What is counted of the user afterwards stays true until the commit. On SQLite `write` itself admits
        one transaction at a time; PostgreSQL takes an advisory lock named by a hash of the user.
        """
        if not self.is_sqlite:
            name = int.from_bytes(hashlib.sha256(user_id.encode()).digest()[:8], "big", signed=True)
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(name)))

    def flush(self) -> None:
        """Bring to the disk what is committed to SQLite; PostgreSQL does it at every commit.

        The log of SQLite only begins anew when nothing is left to bring over, so that the little that was
        written during the first pass is brought over in a second one, while no transaction writes.
        """
        if self.is_sqlite:
            # The driver's own connection: one of SQLAlchemy's would begin a transaction, which holds the log.
            with closing(self.engine.raw_connection()) as connection:
                _checkpoint(connection)
                with self._turn:
                    _checkpoint(connection)

    def check(self) -> None:
        """Raises `ServiceUnavailable` where the database does not answer."""
        with self.read() as connection:
            connection.execute(sa.select(1))

    def close(self) -> None:
        self.engine.dispose()


def _checkpoint(connection: Any) -> None:
    with closing(connection.cursor()) as cursor:
        cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")
        # An answer that is not read keeps its statement, and with it the log, in use.
        cursor.fetchall()


@contextmanager
def translated_database_errors() -> Iterator[None]:
    """The one seam where the driver's errors become ours; a broken constraint passes as it is."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise ServiceUnavailable(f"the database cannot be used now ({_cause(error)})") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise ServiceUnavailable(f"the database closed a connection ({_cause(error)})") from error
        raise


def _cause(error: Exception) -> str:
    """What the driver says, on one line; of these errors none quotes a value of a row."""
    text = str(getattr(error, "orig", None) or type(error).__name__)
    return text.strip().partition("\n")[0]


def _sqlite(url: URL) -> Engine:
    engine = sa.create_engine(url, hide_parameters=True, pool_size=8, max_overflow=56, pool_timeout=BUSY_S)

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        # The driver begins transactions late and on its own; `begun` does it instead.
        connection.isolation_level = None
        for pragma in (
            f"busy_timeout = {BUSY_S * 1000}",
            "journal_mode = WAL",
            # A process that is killed loses nothing. A power cut loses what was committed since the last
            # `flush`, as it does of a Redis that writes its file every second.
            "synchronous = NORMAL",
            # `flush` brings the log over, so that no request has to do it for all others, as the hundredth
            # one would; this is for a database that nobody flushes.
            "wal_autocheckpoint = 65536",
            "foreign_keys = ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        # A transaction that reads first and writes later would fail where another one wrote between.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: URL) -> Engine:
    return sa.create_engine(
        url,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=10,
        pool_timeout=BUSY_S,
        connect_args={
            "connect_timeout": 5,
            "tcp_user_timeout": BUSY_S * 1000,
            # Poolers that hand a connection to another client after each transaction keep no statements.
            "prepare_threshold": None,
        },
    )
