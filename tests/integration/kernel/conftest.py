"""A migrated database that the tests of one module share, for tests which only read the catalogue."""

import os
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from backstay.kernel.ids import new_id


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
