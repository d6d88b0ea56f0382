"""A migrated database that the tests of one module share, for tests which only read the catalogue."""

import os
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
import pytest_asyncio
from psycopg import sql
from psycopg.conninfo import make_conninfo

from backstay.app import App
from backstay.kernel.ids import new_id
from backstay.kernel.settings import Settings
from conftest import MASTER_KEY


@pytest.fixture(scope="module")
def shared_url(server_url: str, template: str) -> Iterator[str]:
    name = f"test_{os.getpid()}_{new_id().hex[-12:]}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
        )
        yield make_conninfo(server_url, dbname=name)
        connection.execute(sql.SQL("drop database if exists {} (force)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def catalogue(shared_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(shared_url, autocommit=True) as connection:
        yield connection


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_app(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    """A started App for tests that leave no trace which others would see."""
    settings = Settings.load(
        database_url=shared_url, data_dir=tmp_path_factory.mktemp("app"), master_key=MASTER_KEY, pool_size=8
    )
    async with App(settings) as running:
        yield running
