"""Our own routes about what happens: jobs, and events as they come.

In: a request and a key. Out: JSON, or server-sent events. It does not know what a job does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from ...errors import NotFound
from ..access import keys
from ..access.keys import ApiKey
from ..jobs.queue import LIVE, Job
from ..log.events import POLL_SECONDS, Event
from ..service import Service
from .auth import AppService, CallerKey, resolve_user

routes = APIRouter(prefix="/v1")
KEEP_ALIVE = 15.0  # seconds without an event before a comment is sent


@routes.get("/jobs")
async def list_jobs(
    key: CallerKey, service: AppService, user: str | None = None, ended: Annotated[int, Query(ge=0, le=1000)] = 20
) -> dict[str, Any]:
    """Jobs that are queued or running, and the newest that ended."""
    whose = resolve_user(key, user, "read") if user is not None or key.own_user is not None else None
    jobs = await asyncio.to_thread(service.jobs.all, whose, ended)
    mine = [job for job in jobs if keys.allowed(key, job.user, "read")]
    return {"object": "list", "data": [job_row(service, job) for job in mine]}


@routes.get("/jobs/{name}")
async def show_job(name: str, key: CallerKey, service: AppService) -> dict[str, Any]:
    """One job with its progress."""
    return job_row(service, _own_job(service, key, name))


@routes.post("/jobs/{name}/cancel")
async def cancel_job(name: str, key: CallerKey, service: AppService) -> dict[str, Any]:
    """Cancel a queued job at once, a running one within seconds."""
    _own_job(service, key, name)
    return job_row(service, await asyncio.to_thread(service.jobs.cancel, name))


@routes.get("/jobs/{name}/events")
async def follow_job(name: str, key: CallerKey, service: AppService, request: Request) -> StreamingResponse:
    """The events of a job from now on, as server-sent events; ends when the job does."""
    _own_job(service, key, name)

    def matches(event: Event) -> bool:
        return getattr(event.fact, "job", None) == name

    events = _follow(service, request, matches, lambda: _has_ended(service, name))
    return StreamingResponse(events, media_type="text/event-stream")


@routes.get("/events")
async def follow_events(key: CallerKey, service: AppService, request: Request) -> StreamingResponse:
    """Events from now on, or since `Last-Event-ID`, as server-sent events: those of users that the key may read."""

    def matches(event: Event) -> bool:
        return keys.allowed(key, event.user, "read" if event.user is not None else "metrics")

    return StreamingResponse(_follow(service, request, matches), media_type="text/event-stream")


def _own_job(service: Service, key: ApiKey, name: str) -> Job:
    """A job that the key may read. `NotFound`: there is none, or it is another user's."""
    job = service.jobs.get(name)
    if not keys.allowed(key, job.user, "read"):
        raise NotFound(f"there is no job {name[:80]!r}; `stillhouse jobs list` shows them")
    return job


def job_row(service: Service, job: Job) -> dict[str, Any]:
    """A job for JSON, with its progress while it is queued or running."""
    live = job.state in LIVE
    progress = asdict(service.jobs.progress(job.id)) if live else None
    return {"object": "job", **asdict(job), "progress": progress}


def _has_ended(service: Service, name: str) -> bool:
    try:
        return service.jobs.get(name).state not in LIVE
    except NotFound:
        return True


async def _follow(
    service: Service, request: Request, matches: Callable[[Event], bool], has_ended: Callable[[], bool] = lambda: False
) -> AsyncIterator[str]:
    """Events for which `matches` is true, as text to send, until `has_ended()` or the server stops."""
    last = request.headers.get("last-event-id", "")
    tail = await asyncio.to_thread(service.events.tail, int(last) if last.isdecimal() and len(last) < 16 else None)
    quiet = 0.0
    while not service.closing:
        ended = await asyncio.to_thread(has_ended)  # asked first, so that the event of the end is still sent
        texts = [event.sse() for event in await asyncio.to_thread(tail.next) if matches(event)]
        quiet = 0.0 if texts else quiet + POLL_SECONDS
        if quiet >= KEEP_ALIVE:
            texts, quiet = [": still here\n\n"], 0.0
        for text in texts:
            yield text
        if ended:
            return
        await asyncio.sleep(POLL_SECONDS)
