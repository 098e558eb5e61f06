"""The server as an ASGI application: all routes, and the tasks that run beside them.

In: a `Service`. Out: a FastAPI application with an OpenAPI page at `/docs`. `/healthz` needs no key; every other route
does, as soon as there is a key. It does not know models or users.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from importlib import metadata, resources
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, Response

from ...errors import InputError, StillhouseError
from ..metrics import CONTENT_TYPE
from ..service import Service
from . import completions, embeddings, jobs, keys, users
from .auth import AppService, CallerKey, is_this_machine, require_server_scope
from .body import BodyReader
from .errors import add_errors

IDLE_SECONDS = 5.0  # between two looks for sessions that went silent
DROP_OLD_SECONDS = 86_400.0  # between two looks for what is older than the journal keeps
CLOSING_SECONDS = 3


def create_app(service: Service, *, local: bool = False) -> FastAPI:
    """The application. `local`: it listens on this machine alone, and answers without a key until there is one."""
    app = FastAPI(title="Stillhouse", version=metadata.version("stillhouse"), lifespan=_lifespan)
    app.state.service, app.state.local = service, local
    add_errors(app)
    app.add_middleware(BodyReader, service=service)
    app.include_router(completions.routes, tags=["openai"])
    app.include_router(embeddings.routes, tags=["openai"])
    app.include_router(users.routes, tags=["stillhouse"])
    app.include_router(jobs.routes, tags=["stillhouse"])
    app.include_router(keys.routes, tags=["stillhouse"])
    app.add_api_route("/v1/stats", stats, tags=["stillhouse"])
    app.add_api_route("/healthz", health, include_in_schema=True)
    app.add_api_route("/metrics", metrics)
    app.add_api_route("/", index, include_in_schema=False, response_class=HTMLResponse)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    service.start()
    watches = [asyncio.create_task(watch(service)) for watch in (_watch_sessions, _watch_age)]
    try:
        yield
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        await asyncio.to_thread(service.close)


async def _watch_sessions(service: Service) -> None:
    while True:
        await asyncio.sleep(min(IDLE_SECONDS, service.config.session_idle))
        await service.end_idle_sessions()


async def _watch_age(service: Service) -> None:
    while True:
        with contextlib.suppress(StillhouseError, OSError):  # locked, damaged or full: tried again at the next round
            await asyncio.to_thread(service.drop_old)
        await asyncio.sleep(DROP_OLD_SECONDS)


async def health(service: AppService) -> JSONResponse:
    """Whether the engine answers."""
    alive = service.engine.alive
    return JSONResponse({"status": "ok" if alive else "stopped", "model": service.model.ref}, 200 if alive else 503)


async def metrics(key: CallerKey, service: AppService) -> Response:
    """The metrics in Prometheus' text format."""
    require_server_scope(key, "metrics")
    return Response(await asyncio.to_thread(service.metrics.text), headers={"Content-Type": CONTENT_TYPE})


async def stats(key: CallerKey, service: AppService) -> dict[str, Any]:
    """The figures of `/metrics` as JSON, for a page."""
    require_server_scope(key, "metrics")
    return await asyncio.to_thread(service.stats)


async def index() -> Response:
    """The page of the server; without its file, where the API is described."""
    file = resources.files("stillhouse.serve.http") / "web" / "index.html"
    if not file.is_file():
        return JSONResponse({"name": "stillhouse", "docs": "/docs"})
    return page(file.read_text(encoding="utf-8"))


def page(text: str) -> HTMLResponse:
    """A page under a policy that lets it load nothing from anywhere else."""
    policy = (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; img-src 'self' data:"
    )
    return HTMLResponse(text, headers={"Content-Security-Policy": policy, "X-Frame-Options": "DENY"})


def check_address(service: Service, host: str) -> bool:
    """Whether `host` is reached from this machine alone. `InputError`: others reach it, and there are no keys."""
    local = is_this_machine(host)
    if not local and not service.keyring.all():
        raise InputError(
            f"--host {host} can be reached from other machines, and there are no keys: "
            "make one with `stillhouse keys create --scope admin`, or leave --host out"
        )
    return local
