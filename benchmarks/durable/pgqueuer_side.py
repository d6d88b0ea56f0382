"""pgqueuer on the stage, with asyncpg, as its documentation has it."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import asyncpg
from pgqueuer import Job, PgQueuer, Queries
from stage import LANES, Desk, run

STEPS, BATCHES = False, True


class Sender:
    """A connection each for those who send at once."""

    def __init__(self, connections: "asyncio.Queue[Queries]") -> None:
        self._free = connections

    async def job(self, number: int) -> None:
        await self._send("nothing", [number])

    async def batch(self, numbers: Iterable[int]) -> None:
        await self._send("nothing", list(numbers))

    async def stamped(self, number: int) -> None:
        await self._send("stamp", [number])

    async def _send(self, name: str, numbers: list[int]) -> None:
        queries = await self._free.get()
        try:
            count = len(numbers)
            await queries.enqueue([name] * count, [str(number).encode() for number in numbers], [0] * count)
        finally:
            self._free.put_nowait(queries)


@asynccontextmanager
async def sender(url: str) -> AsyncIterator[Sender]:
    connections = [await asyncpg.connect(url) for _ in range(8)]
    free: asyncio.Queue[Queries] = asyncio.Queue()
    for connection in connections:
        free.put_nowait(Queries.from_asyncpg_connection(connection))
    try:
        yield Sender(free)
    finally:
        for connection in connections:
            await connection.close()


def setup(url: str) -> None:
    async def main() -> None:
        connection = await asyncpg.connect(url)
        await Queries.from_asyncpg_connection(connection).install()
        await connection.close()

    run(main())


def clear(url: str) -> None:
    async def main() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute("truncate pgqueuer, pgqueuer_log")
        await connection.close()

    run(main())


def work(url: str, desk: Desk) -> None:
    async def main() -> None:
        connection = await asyncpg.connect(url)
        app = PgQueuer.from_asyncpg_connection(connection)

        @app.entrypoint("nothing")
        async def nothing(job: Job) -> None:
            desk.count()

        @app.entrypoint("stamp")
        async def stamp(job: Job) -> None:
            desk.stamp(int(job.payload))

        await asyncio.to_thread(desk.open)
        await app.run(batch_size=LANES)

    run(main())
