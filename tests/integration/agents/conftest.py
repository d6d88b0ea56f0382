import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from backstay.app import App

PAGES = {
    "leases": "# Leases\n\nWhen a worker falls silent its lease runs out after fifteen seconds. Others take its jobs.",
    "budgets": "# Budgets\n\nA call that does not fit into its budget is refused. It consumes nothing at all.",
    "bananas": "# Bananas\n\nBananas are yellow and grow in the south. They are eaten raw.",
}


@asynccontextmanager
async def working(app: App) -> AsyncIterator[None]:
    """A worker for as long as the block lasts."""
    stop = asyncio.Event()
    running = asyncio.create_task(app.jobs.worker(concurrency=4).run(stop))
    try:
        yield
    finally:
        stop.set()
        await running


@pytest.fixture
async def library(app, owner):
    """A collection `pages` with three documents, not embedded."""
    collection = app.content.collection("pages")
    for id, text in PAGES.items():
        await collection.put(id, {"text": text}, by=owner)
    return collection


@pytest.fixture(name="working")
def _working():
    return working


@pytest.fixture
async def worker(app):
    async with working(app):
        yield
