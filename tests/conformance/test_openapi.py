"""Whatever fits or does not fit the OpenAPI document: never a failure of ours, never an answer it does not describe."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.openapi import from_url
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from backstay.app import App
from backstay.kernel import telemetry
from backstay.kernel.settings import Settings
from conftest import MASTER_KEY

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 12  # for each operation and way of generating


class Served:
    """The App behind uvicorn in a thread of its own, with the owner's key."""

    url: str
    key: str

    def __init__(self, options: Settings) -> None:
        self._options = options
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        self._server: uvicorn.Server | None = None
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._main)

    def __enter__(self) -> "Served":
        self._thread.start()
        assert self._ready.wait(60)
        if self._failed is not None:
            raise self._failed
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _main(self) -> None:
        with contextlib.closing(self._loop):
            try:
                self._loop.run_until_complete(self._serve())
            except BaseException as error:
                self._failed = error
            finally:
                self._ready.set()

    async def _serve(self) -> None:
        async with App(self._options) as app:
            self.key = (await app.auth.create_owner(app.default_tenant, "prober")).secret
            config = uvicorn.Config(
                app, host="127.0.0.1", port=0, lifespan="off", log_level="critical", access_log=False
            )
            self._server = uvicorn.Server(config)
            task = asyncio.create_task(self._server.serve())
            while not self._server.started:  # noqa: ASYNC110 -- uvicorn signals no event
                await asyncio.sleep(0.01)
            port = self._server.servers[0].sockets[0].getsockname()[1]
            self.url = f"http://127.0.0.1:{port}"
            self._ready.set()
            await task


@pytest.fixture
def served(database_url: str, tmp_path: Path) -> Iterator[Served]:
    telemetry.configure_logging("error", "json")
    options = Settings.load(database_url=database_url, data_dir=tmp_path, master_key=MASTER_KEY, pool_size=8)
    with Served(options) as running:
        yield running


@pytest.mark.slow
def test_no_input_breaks_the_api_or_its_document(served: Served) -> None:
    schema = from_url(f"{served.url}/openapi.json")
    headers = {"authorization": f"Bearer {served.key}"}
    asked, wrong = 0, []
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def probe(case: schemathesis.Case) -> None:
                nonlocal asked
                asked += 1
                case.call_and_validate(headers=headers, checks=CHECKS, timeout=20)

            try:
                probe()
            except (schemathesis.core.errors.SchemathesisError, Unsatisfiable):
                continue  # nothing can be wrong with an operation that takes nothing
            except BaseExceptionGroup as group:
                wrong.append(f"{operation.label}: {group.exceptions[0]}")
            except AssertionError as error:
                wrong.append(f"{operation.label}: {error}")
    assert asked > 200
    assert wrong == [], "\n\n".join(wrong)
