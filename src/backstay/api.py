"""The HTTP API: one FastAPI application made of every room's router.

Imported late and only by processes that serve: the web framework takes a good part of a start.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from .agents import http as agents_http
from .audit import http as audit_http
from .auth import http as auth_http
from .builtin import http as builtin_http
from .content import http as content_http
from .content import search_http
from .content.attached import http as attached_http
from .content.enrichment import http as enrichment_http
from .content.indexes import http as indexes_http
from .content.spaces import http as spaces_http
from .events import http as events_http
from .gateway import http as gateway_http
from .gateway.catalog import http as catalog_http
from .jobs import http as jobs_http
from .jobs.queues import http as queues_http
from .jobs.remote import http as remote_workers_http
from .jobs.schedules import http as schedules_http
from .kernel import http, probes_http
from .kernel.errors import ConfigurationError
from .streams import http as streams_http
from .workflows import http as workflows_http
from .workflows.approvals import http as approvals_http
from .workflows.machines import http as machines_http

if TYPE_CHECKING:
    from .app import App

_ROOMS = (
    probes_http,
    auth_http,
    audit_http,
    events_http,
    streams_http,
    gateway_http,
    catalog_http,
    jobs_http,
    builtin_http,
    queues_http,
    schedules_http,
    remote_workers_http,
    workflows_http,
    approvals_http,
    machines_http,
    content_http,
    attached_http,
    spaces_http,
    enrichment_http,
    search_http,
    indexes_http,
    agents_http,
)


def build(app: "App") -> FastAPI:
    """The API of `app`.

    Raises:
        ConfigurationError: a route declares no permission.
    """
    api = FastAPIOffline(
        title="Backstay",
        version=version("backstay"),
        summary="The backend AI agents stand on.",
        redoc_url=None,
        docs_url=http.DOCS,
    )
    api.state.backstay = app
    http.install(api)
    for room in _ROOMS:
        api.include_router(room.router.routes)
    undeclared = http.undeclared(api)
    if undeclared:
        raise ConfigurationError(f"these routes declare no permission: {', '.join(undeclared)}")
    return api
