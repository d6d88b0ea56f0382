"""A worker whose embedder answers, says so, and then hangs before the vectors can be written: it waits to be killed."""

import asyncio
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from backstay.audit import Audit
from backstay.content import Content
from backstay.events import Events
from backstay.jobs import Jobs
from backstay.kernel.clock import SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.settings import Settings


class Dying:
    async def embed(self, by: Any, model: str, inputs: Sequence[str], **_: Any) -> Any:
        print("answered", flush=True)
        await asyncio.Event().wait()


async def main(url: str) -> None:
    settings = Settings.load(
        database_url=url, data_dir=Path(mkdtemp()), master_key="m" * 40, lease_seconds=1.0, pool_size=4
    )
    clock = SystemClock()
    async with Database(url, settings) as db:
        jobs = Jobs(db, clock, settings)
        Content(db, clock, jobs, Dying(), Audit(db, clock, Vault.of(settings)), Events(db, clock))
        await jobs.worker(lease=timedelta(seconds=1)).run(asyncio.Event())


asyncio.run(main(sys.argv[1]))
