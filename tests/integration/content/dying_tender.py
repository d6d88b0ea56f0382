"""A worker that says where it is in taking over an attached table, inside the transaction, and waits to be killed."""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from backstay.app import App
from backstay.content.attached import store
from backstay.kernel.settings import Settings


def at_call(number: int, function: Any) -> Any:
    calls = 0

    async def run(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        result = await function(*args)
        if calls == number:
            print("here", flush=True)
            await asyncio.Event().wait()
        return result

    return run


async def main(url: str, master_key: str, place: str, call: str) -> None:
    settings = Settings.load(
        database_url=url, data_dir=Path(mkdtemp()), master_key=master_key, lease_seconds=1.0, pool_size=4
    )
    setattr(store, place, at_call(int(call), getattr(store, place)))
    async with App(settings) as app:
        await app.jobs.worker(lease=timedelta(seconds=1)).run(asyncio.Event())


asyncio.run(main(*sys.argv[1:]))
