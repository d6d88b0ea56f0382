"""A worker that dies between the provider's answer, which is paid for, and the vectors: it waits to be killed there."""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from backstay.app import App
from backstay.content import delivery
from backstay.kernel.settings import Settings


async def hang(*_: Any) -> None:
    print("answered", flush=True)
    await asyncio.Event().wait()


async def main(url: str, master_key: str) -> None:
    settings = Settings.load(
        database_url=url, data_dir=Path(mkdtemp()), master_key=master_key, lease_seconds=1.0, pool_size=4
    )
    delivery.Delivery._write = hang  # type: ignore[method-assign]
    async with App(settings) as app:
        await app.jobs.worker(lease=timedelta(seconds=1)).run(asyncio.Event())


asyncio.run(main(*sys.argv[1:]))
