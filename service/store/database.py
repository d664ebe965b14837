"""The database: connections, migrations, one writer thread, and the lock of the one service that dispatches.

A write is a function of a connection, called by the writer thread. Functions that wait at the same time are committed
together: a commit costs a flush of the disk, and fifty clients at once pay for a few instead of fifty.
"""

import logging
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from filelock import FileLock
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from lncis import files
from lncis.errors import ConfigError, LncisError

Answer = TypeVar("Answer")
Work = Callable[[Connection], Answer]

WRITE, _WAIT = {"lncis_write": True}, "lncis_wait_seconds"
WAL_TIMEOUT_SECONDS = 10.0
WRITE_TIMEOUT_SECONDS = 10.0
"""From the submission of a write to the beginning of its transaction: so long it waits for others that write."""
BATCH_SIZE = 64
"""Functions in one transaction, at most."""
MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATING, _LEADING = 0x6C6E6301, 0x6C6E6302  # PostgreSQL's advisory locks are numbers

log = logging.getLogger("lncis.service")


class DatabaseAway(LncisError):
    """The database does not answer, or cannot be written: its disk is full, its server is down."""


class Database:
    """A database with the latest tables; any thread may use it."""

    def __init__(self, url: str) -> None:
        """Connect and migrate; ConfigError for a wrong URL or a newer database, DatabaseAway if it does not answer."""
        self.engine = _engine(url)
        self._jobs: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        try:
            migrate(self.engine)
        except LncisError:
            self.engine.dispose()
            raise
        self._writer = threading.Thread(target=self._write_all, name="database-writer", daemon=True)
        self._writer.start()

    def read(self, work: Work[Answer]) -> Answer:
        """Return the result of a function that only reads."""
        with _explained(), self.engine.connect() as connection:
            return work(connection)

    def write(self, work: Work[Answer]) -> Answer:
        """Return the result of a function that writes, once everything that it wrote is on the disk."""
        return self.submit(work).result()

    def submit(self, work: Work[Answer]) -> "Future[Answer]":
        """Return a future: of the result, once everything is on the disk, or of an error, and nothing was written.

        DatabaseAway comes after WRITE_TIMEOUT_SECONDS, however many others wait for a database that is locked.
        The function may be called again: if another function of its transaction failed, or another service wrote the
        same row first. So it must not change anything outside the connection.
        """
        write = _Write(work)
        self._jobs.put(write)
        return write.future

    def close(self) -> None:
        """Finish all submitted writes, and disconnect."""
        self._jobs.put(None)
        self._writer.join()
        self.engine.dispose()

    def _write_all(self) -> None:
        while (first := self._jobs.get()) is not None:
            batch = [first]
            while len(batch) < BATCH_SIZE:
                try:
                    more = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self._jobs.put(None)
                    break
                batch.append(more)
            # a request whose client disconnected meanwhile writes nothing
            if batch := [write for write in batch if write.future.set_running_or_notify_cancel()]:
                self._write_batch(batch)

    def _write_batch(self, batch: list["_Write"], *, again: bool = False) -> None:
        """Commit all functions; leave out those that raise, and try each alone if the database fails.

        A function whose row another service wrote meanwhile is called `again`: then it finds that row.
        """
        answers: list[Any] = []
        begun, wait = False, max(0.0, min(write.until for write in batch) - time.monotonic())
        try:
            options = {**WRITE, _WAIT: wait}
            with _explained(), self.engine.connect().execution_options(**options) as connection, connection.begin():
                begun = True
                if self.engine.dialect.name == "postgresql":  # it waits for rows, where SQLite waits for the file
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {max(1, math.ceil(1000 * wait))}")
                for write in batch:
                    answers.append(write.work(connection))
        except DatabaseAway as problem:
            if not begun:
                self._not_begun(batch, problem)
            elif len(batch) > 1:
                for single in batch:  # which one failed shows when each is alone
                    if single.until > time.monotonic():
                        self._write_batch([single])
                    else:
                        single.future.set_exception(problem)
            elif isinstance(problem.__cause__, IntegrityError) and not again:
                self._write_batch(batch, again=True)
            else:
                batch[0].future.set_exception(problem)
        except Exception as refusal:
            at = len(answers)
            batch[at].future.set_exception(refusal)
            if rest := batch[:at] + batch[at + 1 :]:
                self._write_batch(rest)
        else:
            for write, answer in zip(batch, answers, strict=True):
                write.future.set_result(answer)

    def _not_begun(self, batch: list["_Write"], problem: DatabaseAway) -> None:
        """Refuse the writes whose time is up, and try the others again; all, if waiting is of no use."""
        now, busy = time.monotonic(), _is_busy(problem)
        for write in (write for write in batch if not busy or write.until <= now):
            write.future.set_exception(problem)
        if rest := [write for write in batch if busy and write.until > now]:
            self._write_batch(rest)


class _Write:
    """A function that waits for its transaction."""

    def __init__(self, work: Work[Any]) -> None:
        self.work = work
        self.future: Future[Any] = Future()
        self.until = time.monotonic() + WRITE_TIMEOUT_SECONDS


def _is_busy(problem: DatabaseAway) -> bool:
    cause = getattr(problem.__cause__, "orig", None)
    return isinstance(cause, sqlite3.OperationalError) and cause.sqlite_errorcode == sqlite3.SQLITE_BUSY


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and not parsed.database:
            raise ConfigError("LNCIS_DATABASE_URL", ["must name a file: sqlite:///lncis.db; a restart finds it again"])
        if not sqlite and parsed.get_backend_name() != "postgresql":
            raise ConfigError(
                "LNCIS_DATABASE_URL",
                [f"must be sqlite:///... or postgresql+psycopg://... but is {parsed.get_backend_name()}"],
            )
        options: dict[str, Any] = {} if sqlite else {"pool_pre_ping": True, "connect_args": {"connect_timeout": 5}}
        engine = sa.create_engine(parsed, pool_size=8, max_overflow=8, **options)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError(
            "LNCIS_DATABASE_URL", [f"{error}; it must be sqlite:///... or postgresql+psycopg://..."]
        ) from error
    if sqlite:
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    # FULL: a commit that was answered survives a power cut
    for pragma in ("busy_timeout=10000", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    _turn_to_wal(connection)


def _turn_to_wal(connection: sqlite3.Connection) -> None:
    until = time.monotonic() + WAL_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:  # another service does the same; SQLite does not wait here
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    writes, wait = options.get("lncis_write"), options.get(_WAIT, WRITE_TIMEOUT_SECONDS)
    connection.exec_driver_sql(f"PRAGMA busy_timeout={math.ceil(1000 * wait)}")
    # a writer that begins as a reader may find its snapshot outdated
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise DatabaseAway(f"the database cannot be used: {' '.join(str(cause).split())}") from error


def migrate(engine: Engine) -> None:
    """Bring a database up to date; services that start at the same time do it one after the other.

    Raises ConfigError if a newer version of the service has migrated it.
    """
    with _explained(), engine.connect().execution_options(**WRITE) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATING)))
        if _version(connection) != _newest():
            _upgrade(connection)


def _version(connection: Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _newest() -> str:
    """Return the last step's number, which begins the name of its file."""
    return max(path.name for path in MIGRATIONS.glob("versions/[0-9]*.py")).partition("_")[0]


def _upgrade(connection: Connection) -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it logs as soon as it is imported
    from alembic.command import upgrade  # slow to import, and seldom needed
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        upgrade(config, "head")
    except CommandError as error:
        raise ConfigError("LNCIS_DATABASE_URL", [f"{error}; the database is of a newer lncis: use that one"]) from error


class Leadership:
    """The lock of the one service that dispatches; a killed service loses it at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._file: FileLock | None = None
        self._connection: Connection | None = None

    def held(self) -> bool:
        """Say whether this service has the lock, taking it if it is free."""
        return self._by_file() if self._engine.dialect.name == "sqlite" else self._by_connection()

    def _by_file(self) -> bool:
        if self._file is None:
            lock = files.lock(Path(f"{self._engine.url.database}-dispatcher"))
            try:
                lock.acquire()
            except TimeoutError:
                return False
            self._file = lock
        return True

    def _by_connection(self) -> bool:
        try:
            if self._connection is None:
                connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
                if not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_LEADING))):
                    connection.close()
                    return False
                self._connection = connection
            self._connection.execute(sa.text("SELECT 1"))  # the lock lives as long as the connection
        except SQLAlchemyError:
            self.release()
            return False
        return True

    def release(self) -> None:
        """Leave the lock to another service."""
        if self._file:
            self._file.release()
        if self._connection:
            self._connection.invalidate()  # closed, not put back into the pool with the lock on it
            self._connection.close()
        self._file = self._connection = None
