"""The database: connections, migrations, one writer, and who of several services may act.

Whoever writes hands the writer a function of a connection. Functions that wait together are committed together: a
commit costs a flush of the disk, and fifty clients at once pay for a few instead of fifty.
"""

import fcntl
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from lncis.errors import ConfigError, LncisError

Answer = TypeVar("Answer")
Work = Callable[[Connection], Answer]

WRITE = {"lncis_write": True}
TOGETHER = 64
"""Most functions in one transaction."""
MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATING, _LEADING = 0x6C6E6301, 0x6C6E6302  # PostgreSQL's advisory locks are numbers

log = logging.getLogger("lncis.service")


class DatabaseAway(LncisError):
    """The database does not answer, or cannot be written: its disk is full, its server is down."""


class Database:
    """A database that is up to date; any thread may use it."""

    def __init__(self, url: str) -> None:
        """Connect, and take the steps of migrations/ that are missing; ConfigError, DatabaseAway say what hinders."""
        self.engine = _engine(url)
        self._jobs: queue.SimpleQueue[tuple[Work[Any], Future[Any]] | None] = queue.SimpleQueue()
        try:
            migrate(self.engine)
        except LncisError:
            self.engine.dispose()
            raise
        self._writer = threading.Thread(target=self._write_all, name="database-writer", daemon=True)
        self._writer.start()

    def read(self, work: Work[Answer]) -> Answer:
        """Return what a function reads; it must not write."""
        with _explained(), self.engine.connect() as connection:
            return work(connection)

    def write(self, work: Work[Answer]) -> Answer:
        """Return what a function returns, after all that it wrote is on the disk."""
        return self.submit(work).result()

    def submit(self, work: Work[Answer]) -> "Future[Answer]":
        """Return at once; the future is done when all is on the disk, or has the error and nothing was written.

        The function may be called again where another one of its transaction failed, or another service was first.
        """
        future: Future[Answer] = Future()
        self._jobs.put((work, future))
        return future

    def close(self) -> None:
        """Write what was submitted, and disconnect."""
        self._jobs.put(None)
        self._writer.join()
        self.engine.dispose()

    def _write_all(self) -> None:
        while (first := self._jobs.get()) is not None:
            batch = [first]
            while len(batch) < TOGETHER:
                try:
                    more = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self._jobs.put(None)
                    break
                batch.append(more)
            # a client that went away while its request waited: nothing of it is written
            if batch := [(work, future) for work, future in batch if future.set_running_or_notify_cancel()]:
                self._write_batch(batch)

    def _write_batch(self, batch: list[tuple[Work[Any], Future[Any]]], *, again: bool = False) -> None:
        """Commit all; without those that refuse, or each alone where the database does.

        One whose row another service wrote meanwhile is called `again`: it finds that row.
        """
        answers: list[Any] = []
        try:
            with _explained(), self.engine.connect().execution_options(**WRITE) as connection, connection.begin():
                for work, _ in batch:
                    answers.append(work(connection))
        except DatabaseAway as problem:
            if len(batch) > 1:
                for single in batch:  # whose fault it was shows when each stands alone
                    self._write_batch([single])
            elif isinstance(problem.__cause__, IntegrityError) and not again:
                self._write_batch(batch, again=True)
            else:
                batch[0][1].set_exception(problem)
        except Exception as refusal:
            at = len(answers)
            batch[at][1].set_exception(refusal)
            if rest := batch[:at] + batch[at + 1 :]:
                self._write_batch(rest)
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                future.set_result(answer)


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
    patience = time.monotonic() + 10
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:  # another service turns the same new file: SQLite does not wait here
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > patience:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("lncis_write")
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
    """Bring a database up to date; two services that start at once do it one after the other.

    Raises ConfigError where a newer version of the service has changed it.
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
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it speaks as soon as it is loaded
    from alembic.command import upgrade  # slow to load, and seldom needed
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
    """The right to act on Ray for a database: one service at a time has it, and a killed one loses it at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._file: IO[str] | None = None
        self._connection: Connection | None = None

    def held(self) -> bool:
        """Say whether this service may act now, taking the right if it is free."""
        return self._by_file() if self._engine.dialect.name == "sqlite" else self._by_connection()

    def _by_file(self) -> bool:
        if self._file is None:
            file = Path(f"{self._engine.url.database}-dispatcher").open("w")  # noqa: SIM115 - held until release
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            self._file = file
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
        """Leave it to another."""
        if self._file:
            self._file.close()
        if self._connection:
            self._connection.invalidate()  # closed, not put back into the pool with the lock on it
            self._connection.close()
        self._file = self._connection = None
