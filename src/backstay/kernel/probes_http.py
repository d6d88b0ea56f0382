"""What machines ask a process: is it alive, is it ready, what are its figures."""

import asyncio

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel

from . import telemetry
from .errors import BackstayError, Unavailable
from .http import PUBLIC, Router

router = Router("", tag="probes")


class Alive(BaseModel):
    status: str = "ok"


class Ready(BaseModel):
    status: str = "ready"
    migration: str


@router.get("/healthz", permission=PUBLIC)
async def healthz() -> Alive:
    """The process answers. Says nothing about the database: a restart would not mend that."""
    return Alive()


@router.get("/readyz", permission=PUBLIC, errors=[Unavailable])
async def readyz(request: Request) -> Ready:
    """The process can do its work: database reached, schema known, not shutting down."""
    app = request.app.state.backstay
    if app.stopping:
        raise Unavailable("shutting down")
    try:
        return Ready(migration=await app.schema_version())
    except BackstayError:
        raise
    except OSError as error:
        raise Unavailable(f"the database is not reachable: {error.strerror}") from error


@router.get("/metrics", permission=PUBLIC, response_class=Response)
async def metrics() -> Response:
    """Figures in the Prometheus text format. They name no tenant and no user."""
    # In a thread: thousands of lines take a tenth of a second, in which no call would be served.
    return Response(await asyncio.to_thread(telemetry.render), media_type=telemetry.METRICS_TYPE)
