"""Fresh databases for tests, made ahead and dropped behind: cloning and dropping take longer than most tests."""

import contextlib
import os
import queue
import threading
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from backstay.kernel.db import OWNER
from backstay.kernel.ids import new_id

_AHEAD = 2


class Clones:
    """Clones of a template. `take` gives the name of one that nobody else has; `give_back` drops it soon after."""

    def __init__(self, server_url: str, template: str) -> None:
        self._url, self._template = server_url, template
        self._ready: queue.Queue[str | Exception] = queue.Queue(_AHEAD)
        self._done: queue.Queue[str | None] = queue.Queue()
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._make, self._drop)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        while self._threads[0].is_alive() or not self._ready.empty():
            with contextlib.suppress(queue.Empty):
                left = self._ready.get(timeout=0.05)
                if isinstance(left, str):
                    self._done.put(left)
        self._done.put(None)
        self._threads[1].join()

    def url(self, name: str) -> str:
        return make_conninfo(self._url, dbname=name)

    def take(self) -> str:
        """Raises what went wrong when it was made."""
        found = self._ready.get()
        if isinstance(found, Exception):
            self._ready.put(found)  # nothing more is made: the next test must not wait for it
            raise found
        return found

    def give_back(self, name: str) -> None:
        self._done.put(name)

    def _make(self) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True) as connection:
                while not self._ending.is_set():
                    self._offer(self._clone(connection))
        except psycopg.Error as error:
            self._offer(error)

    def _clone(self, connection: psycopg.Connection[tuple[object, ...]]) -> str:
        name = f"test_{os.getpid()}_{new_id().hex[-12:]}"
        made = sql.Identifier(name)
        connection.execute(sql.SQL("create database {} template {}").format(made, sql.Identifier(self._template)))
        # grants on the database itself are not part of a template
        connection.execute(sql.SQL("grant connect, create on database {} to {}").format(made, sql.Identifier(OWNER)))
        return name

    def _offer(self, item: str | Exception) -> None:
        while True:
            try:
                self._ready.put(item, timeout=0.05)
                return
            except queue.Full:
                if self._ending.is_set():
                    if isinstance(item, str):
                        self._done.put(item)
                    return

    def _drop(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while (name := self._done.get()) is not None:
                connection.execute(sql.SQL("drop database if exists {} (force)").format(sql.Identifier(name)))
