"""An empty database with roles and schema, before the first migration."""

import asyncio
import os
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from backstay.kernel.ids import new_id
from backstay.kernel.roles import bootstrap


@pytest.fixture
def empty_url(server_url: str) -> Iterator[str]:
    name = f"test_{os.getpid()}_{new_id().hex[-12:]}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
        url = make_conninfo(server_url, dbname=name)
        asyncio.run(bootstrap(url))
        yield url
        connection.execute(sql.SQL("drop database if exists {} (force)").format(sql.Identifier(name)))
