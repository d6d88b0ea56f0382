"""DBOS on the stage, as its documentation sets it up: a queue at its default polling interval, async workflows."""

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from dbos import DBOS, DBOSClient
from stage import Desk

STEPS, BATCHES = True, False
VERSION = "bench"
_desk: Desk | None = None


def _alchemy(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


@DBOS.step()
async def step() -> int:
    _desk.count()
    return 1


@DBOS.workflow()
async def nothing(number: int) -> None:
    _desk.count()


@DBOS.workflow()
async def stamp(number: int) -> None:
    _desk.stamp(number)


@DBOS.workflow()
async def steps(number: int) -> int:
    for _ in range(number):
        await step()
    return number


class Sender:
    def __init__(self, client: DBOSClient) -> None:
        self._client = client

    async def job(self, number: int) -> None:
        await self._send("nothing", number)

    async def stamped(self, number: int) -> None:
        await self._send("stamp", number)

    async def run(self, steps: int) -> None:
        await self._send("steps", steps)

    async def _send(self, name: str, number: int) -> None:
        options: Any = {"workflow_name": name, "queue_name": "bench", "app_version": VERSION}
        await self._client.enqueue_async(options, number)


@asynccontextmanager
async def sender(url: str) -> AsyncIterator[Sender]:
    client = DBOSClient(system_database_url=_alchemy(url))
    try:
        yield Sender(client)
    finally:
        client.destroy()


def _launch(url: str, executor: str) -> None:
    config: Any = {
        "name": "bench",
        "system_database_url": _alchemy(url),
        "application_version": VERSION,
        "executor_id": executor,
        "log_level": "ERROR",
        "enable_otlp": False,
    }
    DBOS(config=config)
    DBOS.launch()
    DBOS.register_queue("bench")


def setup(url: str) -> None:
    _launch(url, "setup")
    DBOS.destroy()


def clear(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("truncate dbos.workflow_status cascade")


def work(url: str, desk: Desk) -> None:
    global _desk
    _desk = desk
    logging.disable(logging.WARNING)
    desk.open()
    _launch(url, f"worker-{id(desk)}")
    threading.Event().wait()
