"""What keeps an App from starting is what it says."""

from uuid import uuid4

import psycopg
import pytest

from backstay.app import App
from backstay.kernel.errors import ConfigurationError
from backstay.kernel.settings import Settings


async def test_a_start_that_fails_says_why(settings: Settings) -> None:
    with psycopg.connect(str(settings.database_url), autocommit=True) as connection:
        connection.execute("update backstay.migration set version_num = '0001'")
    with pytest.raises(ConfigurationError, match="backstay migrate up"):
        async with App(settings):
            pytest.fail("it started")


async def test_before_the_start_it_says_what_to_do(settings: Settings) -> None:
    app = App(settings)
    with pytest.raises(ConfigurationError, match="not open"):
        async with app.transaction(uuid4()):
            pytest.fail("it was open")
