"""An App whose tenants may have base URLs, catalogues of other processes, and a planted secret to look for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from backstay.app import App
from backstay.audit import Audit
from backstay.gateway.catalog import Catalog
from backstay.kernel.clock import SystemClock
from backstay.kernel.crypto import Vault
from backstay.kernel.db import Database
from backstay.kernel.errors import Invalid
from backstay.kernel.settings import Settings

INNER = "http://169.254.169.254"


async def guard(url: str) -> None:
    """Stands for the guard against inner addresses; the real one asks the network."""
    if url.startswith(INNER):
        raise Invalid("this base URL leads inside")


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[App]:
    made = App(settings)
    made.catalog = made.gateway.catalog = Catalog(made.db, made.clock, made.vault, made.audit, settings, guard=guard)
    async with made as running:
        yield running


MakeCatalog = Callable[..., Awaitable[Catalog]]


@pytest.fixture
async def another(
    database_url: str, settings: Settings, clock: SystemClock, vault: Vault
) -> AsyncIterator[Callable[..., Awaitable[Catalog]]]:
    """Makes catalogues as other processes have them: `await another(ttl=…, listening=False)`."""
    async with AsyncExitStack() as stack:

        async def make(ttl: float = 10.0, listening: bool = True, **changes: Any) -> Catalog:
            db = await stack.enter_async_context(Database(database_url, settings))
            changed = settings.model_copy(update=changes)
            catalog = Catalog(db, clock, vault, Audit(db, clock, vault), changed, guard=guard, ttl=ttl)
            if listening:
                ending = asyncio.Event()
                keeping = asyncio.create_task(catalog.keep(ending))
                stack.push_async_callback(lambda: keeping)
                stack.callback(ending.set)
            return catalog

        yield make
