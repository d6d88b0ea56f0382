"""Procrastinate on the stage."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import psycopg
from procrastinate import App, PsycopgConnector
from stage import LANES, Desk, run

STEPS, BATCHES = False, True


def build(url: str, desk: Desk | None = None) -> App:
    app = App(connector=PsycopgConnector(conninfo=url))

    @app.task(name="nothing")
    async def nothing(number: int) -> None:
        desk.count()

    @app.task(name="stamp")
    async def stamp(number: int) -> None:
        desk.stamp(number)

    return app


class Sender:
    def __init__(self, app: App) -> None:
        self._app = app

    async def job(self, number: int) -> None:
        await self._app.tasks["nothing"].defer_async(number=number)

    async def batch(self, numbers: Iterable[int]) -> None:
        await self._app.tasks["nothing"].batch_defer_async(*({"number": number} for number in numbers))

    async def stamped(self, number: int) -> None:
        await self._app.tasks["stamp"].defer_async(number=number)


@asynccontextmanager
async def sender(url: str) -> AsyncIterator[Sender]:
    app = build(url)
    async with app.open_async():
        yield Sender(app)


def setup(url: str) -> None:
    async def main() -> None:
        app = build(url)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    run(main())


def clear(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("truncate procrastinate_jobs, procrastinate_workers cascade")


def work(url: str, desk: Desk) -> None:
    async def main() -> None:
        app = build(url, desk)
        async with app.open_async():
            await asyncio.to_thread(desk.open)
            await app.run_worker_async(concurrency=LANES, install_signal_handlers=False)

    run(main())
