"""A process that says where it is in a change of models, inside the transaction, and waits there to be killed."""

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from uuid import UUID

from backstay.app import App
from backstay.content import delivery
from backstay.content.spaces import store
from backstay.kernel.principal import Principal
from backstay.kernel.settings import Settings


async def hang() -> None:
    print("here", flush=True)
    await asyncio.Event().wait()


def after(function: Any) -> Any:
    async def run(*args: Any) -> Any:
        await function(*args)
        await hang()

    return run


async def main(url: str, master_key: str, place: str, tenant: str, space: str) -> None:
    settings = Settings.load(
        database_url=url, data_dir=Path(mkdtemp()), master_key=master_key, lease_seconds=1.0, pool_size=4
    )
    patched: dict[str, tuple[Any, str]] = {
        "fill": (store, "backfill"),
        "embed": (delivery.vectors_store, "write_vectors"),
        "switch": (store, "search_in"),
        "clear": (store, "clear"),
    }
    module, name = patched[place]
    setattr(module, name, after(getattr(module, name)))
    async with App(settings) as app:
        if place == "switch":
            await app.spaces.switch(Principal.system(UUID(tenant), "test"), "docs", int(space))
        await app.jobs.worker(lease=timedelta(seconds=1)).run(asyncio.Event())


asyncio.run(main(*sys.argv[1:]))
