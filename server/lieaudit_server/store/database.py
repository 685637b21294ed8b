"""SQLite in a thread of its own; operations that wait together are committed together.

One durable commit costs an fsync. With many clients waiting, a batch shares it: each operation runs in its savepoint,
fails alone, and is answered only after the commit that holds it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lieaudit_server.store import schema

T = TypeVar("T")
_Operation = tuple[Callable[[sqlite3.Connection], Any], concurrent.futures.Future[Any]]
_BATCH = 128


def connect(path: Path) -> sqlite3.Connection:
    """Open the state: WAL, every commit synced to the disk, foreign keys on, rows by column name."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def is_damage(problem: sqlite3.Error) -> bool:
    """Whether an error says that the file itself is damaged or gone."""
    code = getattr(problem, "sqlite_errorcode", 0) & 0xFF
    return isinstance(problem, StateLostError) or code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class StateLostError(sqlite3.DatabaseError):
    """The file of the state is no longer there: what is written now, nobody would find again."""


class Database:
    """The state of the server. Operations are functions of the connection; they run one after the other.

    Parameters
    ----------
    path
        The file.
    on_damage
        Called, in the database's thread, when the state turns out to be damaged or gone.
    """

    def __init__(self, path: Path, on_damage: Callable[[sqlite3.Error], None] = lambda _: None) -> None:
        self._path = path
        self._on_damage = on_damage
        self._connection = connect(path)
        self._inode = path.stat().st_ino
        schema.migrate(self._connection)
        self._operations: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="database", daemon=True)
        self._thread.start()

    async def run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run an operation in a transaction; returns once it is durable.

        A caller that is cancelled before the operation started takes it back; after that it is carried out.
        """
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._operations.put((operation, future))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Carry out what is queued and close."""
        self._operations.put(None)
        self._thread.join()
        self._connection.close()

    def _serve(self) -> None:
        closing = False
        while not closing:
            batch = [self._operations.get()]
            while len(batch) < _BATCH and not self._operations.empty():
                batch.append(self._operations.get_nowait())
            closing = None in batch
            started = [item for item in batch if item is not None and item[1].set_running_or_notify_cancel()]
            if started:
                self._commit(started)

    def _commit(self, batch: list[_Operation]) -> None:
        execute = self._connection.execute
        results: list[tuple[Any, BaseException | None]] = []
        failure: BaseException | None = None
        try:
            self._check_file()
            execute("BEGIN IMMEDIATE")
            for operation, _ in batch:
                results.append(self._savepoint(operation))
            execute("COMMIT")
        except sqlite3.Error as problem:  # the disk is full or broken: nothing of this batch was kept
            failure = problem
            if is_damage(problem):
                self._on_damage(problem)
            if self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # where that fails too, the next batch fails and tries again
                    execute("ROLLBACK")
        for position, (_, future) in enumerate(batch):
            value, refusal = results[position] if failure is None else (None, failure)
            if isinstance(refusal, sqlite3.Error) and failure is None and is_damage(refusal):
                self._on_damage(refusal)
            if refusal is None:
                future.set_result(value)
            else:
                future.set_exception(refusal)

    def _check_file(self) -> None:
        try:
            there = self._path.stat().st_ino == self._inode
        except OSError:
            there = False
        if not there:
            raise StateLostError(f"{self._path} was deleted or replaced while the server ran")

    def _savepoint(self, operation: Callable[[sqlite3.Connection], Any]) -> tuple[Any, BaseException | None]:
        execute = self._connection.execute
        execute("SAVEPOINT operation")
        try:
            value = operation(self._connection)
        except Exception as problem:
            if not self._connection.in_transaction:
                raise  # a full disk ends the whole transaction, and with it the batch
            execute("ROLLBACK TO operation")
            execute("RELEASE operation")
            return None, problem
        execute("RELEASE operation")
        return value, None
