"""A worker that builds an index as soon as there is one vector, and waits to be killed."""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from tempfile import mkdtemp

from backstay.app import App
from backstay.content.indexes.advice import Thresholds
from backstay.kernel.settings import Settings


async def main(url: str, master_key: str) -> None:
    settings = Settings.load(
        database_url=url, data_dir=Path(mkdtemp()), master_key=master_key, lease_seconds=1.0, pool_size=4
    )
    async with App(settings) as app:
        app.content.indexer.thresholds = Thresholds(1, 1)
        app.content.indexer.look_every = 0.02
        await app.jobs.worker(lease=timedelta(seconds=1)).run(asyncio.Event())


asyncio.run(main(*sys.argv[1:]))
