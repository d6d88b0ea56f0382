"""The composition root: an App builds every room, mounts every router, and starts and stops what runs.

A request goes: RequestBoundary (id, size limit) → `/v1` straight into the gateway's own ASGI front, everything else
through FastAPI → a room's `http` → its `service` → one transaction.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from .agents import Agents
from .audit import Audit
from .auth import Auth, IssuedKey
from .builtin import EmailJob, HttpJob, ReportJob, Results, RetentionJob
from .content import BatchLimit, Content
from .content.attached import Attached
from .content.enrichment import Enrichments
from .content.indexes import Indexes
from .content.spaces import Spaces
from .events import Events
from .gateway import Allowance, Gateway
from .gateway.catalog import defined
from .gateway.front import GatewayFront
from .gateway.providers.local import INPUTS as LOCAL_INPUTS
from .jobs import Jobs, Queues, RemoteWorkers
from .jobs.schedules import Schedules
from .kernel import idempotency, telemetry
from .kernel.cache import Cache, Store
from .kernel.cache_postgres import PostgresStore
from .kernel.clock import Clock, SystemClock
from .kernel.crypto import Vault
from .kernel.db import Database, Tx
from .kernel.embedded import EmbeddedPostgres
from .kernel.errors import ConfigurationError
from .kernel.migrate import Migrations
from .kernel.principal import Principal
from .kernel.roles import bootstrap, verify
from .kernel.settings import Settings
from .streams import Streams
from .workflows import Workflows
from .workflows.machines import Machines

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Receive, Scope, Send

_GATEWAY_PATHS = ("/v1/", "/v1beta/")


class App:
    """One Backstay: services as attributes, an ASGI application, and a lifespan for your own FastAPI.

    Use it as `async with App.from_env() as app`, or mount it: `FastAPI(lifespan=app.lifespan)` and
    `api.mount("/ai", app)`.
    """

    def __init__(self, settings: Settings | None = None, *, clock: Clock | None = None) -> None:
        self.settings = settings or Settings.load()
        telemetry.ensure_logging(self.settings.log_level, self.settings.log_format)
        self.clock = clock or SystemClock()
        self.vault = Vault.of(self.settings)
        self.stopping = False
        self._embedded = None if self.settings.database_url else EmbeddedPostgres(self.settings.data_dir)
        self._default_tenant: UUID | None = None
        self._first_key: IssuedKey | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._ending = asyncio.Event()
        self._budgets: dict[str, Allowance] = {}

        self.db = Database(self.settings.database_url, self.settings)
        self.cache = Cache(self._cache_store(), self.clock, front_bytes=self.settings.cache_memory_bytes)
        self.audit = Audit(self.db, self.clock, self.vault)
        self.auth = Auth(self.db, self.clock, self.vault, self.audit)
        self.events = Events(self.db, self.clock)
        self.streams = Streams(self.db, self.clock, self.settings)
        self.jobs = Jobs(self.db, self.clock, self.settings)
        self.schedules = Schedules(self.db, self.clock, self.jobs, self.audit)
        self.queues = Queues(self.db, self.audit, self.auth)
        self.remote_workers = RemoteWorkers(self.jobs)
        self.gateway = Gateway(
            self.db, self.clock, self.vault, self.audit, self.events, self.settings, cache=self.cache
        )
        self.catalog = self.gateway.catalog
        self.workflows = Workflows(self.db, self.clock, self.jobs, self.audit, self.events, self.gateway.budgets)
        self.approvals = self.workflows.approvals
        self.machines = Machines(self.db, self.clock, self.jobs, self.audit, self.events)
        limits = {f"local:{name}": BatchLimit(inputs=LOCAL_INPUTS) for name in self.settings.local_models}
        limits |= {model: BatchLimit(**given) for model, given in self.settings.embed_batches.items()}
        self.content = Content(
            self.db,
            self.clock,
            self.jobs,
            self.gateway,
            self.audit,
            self.events,
            limits=limits,
            index_memory_mb=self.settings.index_memory_mb,
            completer=self.gateway,
        )
        self.indexes = Indexes(self.db, self.audit, self.auth, self.events, self.content.indexer)
        self.enrichments = Enrichments(self.db, self.clock, self.jobs, self.gateway, self.audit, self.content)
        self.spaces = Spaces(
            self.db,
            self.clock,
            self.jobs,
            self.gateway,
            self.audit,
            self.events,
            self.content.pipeline,
            self.content.searcher,
        )
        self.attached = Attached(self.db, self.clock, self.jobs, self.audit, self.events, self.auth, self.content)
        self.agents = Agents(
            self.db, self.clock, self.content, self.gateway, self.workflows, self.streams, self.audit, self.events
        )

        self.results = Results(self.db, self.clock)
        self.http = HttpJob(self.jobs, self.settings, self.vault, self.audit, self.events, self.results)
        self.email = EmailJob(self.jobs, self.clock, self.settings, self.vault, self.audit, self.events, self.results)
        self.reports = ReportJob(
            self.jobs, self.db, self.clock, self.vault, self.audit, self.events, self.results, self.email
        )
        self.retention = RetentionJob(
            self.jobs, self.clock, self.settings, self.audit, self.auth, self.events, self.schedules, self.results
        )

        self.tool = self.agents.tools.tool
        self.agent = self.agents.roster.agent
        self.durable = self.agents.durable
        self.job = self.jobs.job
        self.schedule = self.schedules.declare
        self.workflow = self.workflows.workflow
        self.machine = self.machines.machine
        self.collection = self.content.collection
        self.attach = self.attached.table
        self.guard = self.gateway.guard
        self._gateway_front = GatewayFront(
            self.gateway, self.auth.authenticate, max_body_bytes=self.settings.max_body_bytes
        )

    def model(
        self, name: str, model: str, *, fallback: str | Sequence[str] = (), budget: str | None = None, **route: Any
    ) -> None:
        """Calls `model` (`provider:model`) by a name of your own, and `fallback` when it does not answer.

        `budget`: what it may cost the default tenant, such as `20 USD/day`; it is made when the App starts. `route`:
        more of a Route, such as `mode="guarded"`.

        Raises:
            ConfigurationError: the name is taken, or something is not as it should be written.
        """
        others = [fallback] if isinstance(fallback, str) else fallback
        self.catalog.define(defined(name, [model, *others], route))
        if budget is not None:
            self._budgets[name] = Allowance.read(budget)

    @classmethod
    def from_env(cls) -> Self:
        """An App with the settings of the environment and `backstay.toml`."""
        return cls(Settings.load())

    @cached_property
    def api(self) -> "FastAPI":
        """The FastAPI application behind everything but `/v1`; made when first asked for (workers never do)."""
        from .api import build

        return build(self)

    @cached_property
    def _asgi(self) -> "ASGIApp":
        from .kernel.http import RequestBoundary

        return RequestBoundary(self._route, self.settings.max_body_bytes, own_errors=_GATEWAY_PATHS)

    @property
    def default_tenant(self) -> UUID:
        """The tenant that a single-tenant installation uses. Known once the App has started."""
        if self._default_tenant is None:
            raise ConfigurationError("the App has not started: use `async with app` or `app.lifespan`")
        return self._default_tenant

    @property
    def first_key(self) -> IssuedKey | None:
        """The admin key that this start has made, to be shown once; None when one stood already."""
        return self._first_key

    def transaction(
        self, tenant: UUID | None = None, *, using: object | None = None
    ) -> AbstractAsyncContextManager[Tx]:
        """A transaction for your rows and ours: both commit when the block ends well, or neither.

        `tenant` defaults to the default tenant. `using` takes your own open psycopg `AsyncConnection`, SQLAlchemy
        `AsyncSession` or `AsyncConnection`; then you commit.
        """
        fenced = tenant or self.default_tenant
        return self.db.tenant_tx(fenced) if using is None else self.db.adopt(using, fenced)

    async def start(self, *, migrate: bool | None = None, on_progress: Callable[[str], None] = lambda _: None) -> None:
        """Brings the database up and opens everything. `on_progress` gets a line for each finished stage.

        `migrate`: apply missing migrations; by default only on the embedded database.

        Raises:
            ConfigurationError: what is wrong with database, schema, roles or settings, and the mend.
        """
        url = await self._database(on_progress)
        await self._schema(url, self._embedded is not None if migrate is None else migrate, on_progress)
        await self.db.open(url)
        self._default_tenant = (await self.auth.ensure_default_tenant()).id
        await self.schedules.put_declared(self.default_tenant)
        await self.machines.register()
        await self.attached.put_declared(self._default_tenant)
        await self.gateway.start()
        for name, allowance in self._budgets.items():
            await self.gateway.budgets.ensure(
                Principal.system(self.default_tenant, "program"), "model", name, allowance
            )
        self._ending.clear()
        self._loops = [
            asyncio.create_task(self.streams.keep(self._ending), name="streams"),
            asyncio.create_task(idempotency.keep(self.db, self.clock, self._ending), name="idempotency"),
            asyncio.create_task(self.cache.tend(self._ending), name="cache"),
        ]

    async def ensure_admin(self) -> IssuedKey | None:
        """The first admin key, made now or preset by BACKSTAY_ADMIN_KEY; None when it stands already."""
        preset = self.settings.admin_key.get_secret_value() if self.settings.admin_key else None
        self._first_key = await self.auth.ensure_admin(self.default_tenant, preset)
        return self._first_key

    async def stop(self) -> None:
        """Ends loops, settles what is in flight, closes connections, and lets go of the embedded database."""
        self.drain()
        self._ending.set()
        await asyncio.gather(*self._loops)
        await self.gateway.stop()
        await self.http.close()
        await self.cache.close()
        await self.db.close()
        if self._embedded is not None:
            await asyncio.to_thread(self._embedded.stop)

    def drain(self) -> None:
        """Says "not ready" from now on, lets stream readers go (they resume elsewhere) and remote workers that wait."""
        self.stopping = True
        self.streams.release_readers()
        self.remote_workers.release_waiting()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @asynccontextmanager
    async def lifespan(self, _: object) -> AsyncIterator[None]:
        """For `FastAPI(lifespan=app.lifespan)`."""
        async with self:
            yield

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        await self._asgi(scope, receive, send)

    async def schema_version(self) -> str:
        """The newest migration the database has; asking proves that it is reachable."""
        async with self.db.system_tx() as tx:
            row = await (await tx.execute("select version_num from backstay.migration")).fetchone()
        return str(row[0]) if row else "none"

    async def _route(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        to_gateway = scope["type"] == "http" and path.startswith(_GATEWAY_PATHS)
        await (self._gateway_front if to_gateway else self.api)(scope, receive, send)

    def _cache_store(self) -> Store:
        if not self.settings.redis_url:
            return PostgresStore(self.db, self.clock)
        try:
            # Imported when it is used: the client is an extra.
            from .kernel.cache_redis import RedisStore
        except ModuleNotFoundError as error:
            if error.name != "redis":
                raise
            raise ConfigurationError(
                "BACKSTAY_REDIS_URL is set and the Redis client is not installed: `pip install 'backstay[redis]'`"
            ) from None
        return RedisStore(self.settings.redis_url)

    async def _database(self, on_progress: Callable[[str], None]) -> str:
        if self._embedded is None:
            return str(self.settings.database_url)
        url = await asyncio.to_thread(self._embedded.start)
        on_progress(f"database    embedded Postgres in {self._embedded.home}")
        return url

    async def _schema(self, url: str, migrate: bool, on_progress: Callable[[str], None]) -> None:
        migrations = Migrations(url)
        if migrate:
            await bootstrap(url)
        pending = await asyncio.to_thread(migrations.pending)
        if pending and not migrate:
            raise ConfigurationError(
                f"the database lacks {len(pending)} migrations ({pending[0].name} first): run `backstay migrate up`"
            )
        if pending:
            await asyncio.to_thread(migrations.up)
            on_progress(f"migrations  {len(pending)} applied")
        elif migrate:
            on_progress("migrations  nothing to do")
        await verify(url)
