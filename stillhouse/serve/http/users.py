"""Our own routes: users with their memories, versions, sessions; jobs; keys; events.

In: checked bodies and a key. Out: JSON, a gate's report as a page, server-sent events. A user's name may hold slashes:
an admin asks for `tenant/name`. It does not know how anything is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, StreamingResponse

from ...errors import NotFound
from ...inputs import check_memory
from .. import sessions
from ..access import keys
from ..access.keys import ApiKey
from ..jobs.queue import LIVE, Job, check_settings
from ..log import journal_records
from ..log.events import POLL_SECONDS, Event
from ..log.journal_records import Memory
from ..service import Service
from .auth import Caller, Here, server_wide, subject
from .schema import ConsolidateBody, KeyBody, MemoryBody, RollbackBody

routes = APIRouter(prefix="/v1")
KEEP_ALIVE = 15.0  # seconds without an event before a comment is sent
_REPORT_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"}


# ---- users


@routes.get("/users")
async def list_users(key: Caller, service: Here, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
    """Users with a version, an open session or a queued job."""
    if key.own is None and not keys.allowed(key, None, "users"):
        server_wide(key, "users")

    def found() -> list[dict[str, Any]]:
        names = {*service.store.users(), *(job.user for job in service.jobs.all(ended=0)), *service.known_users()}
        mine = sorted(u for u in names if keys.allowed(key, u, "read"))
        return [_summary(service, user) for user in mine[:limit]]

    return {"object": "list", "data": await asyncio.to_thread(found)}


@routes.post("/users/{user:path}/memory")
async def add_memory(user: str, body: MemoryBody, key: Caller, service: Here) -> dict[str, Any]:
    """Hand over a text to be remembered: answered from at once, consolidated when the policy says so."""
    user = subject(key, user, "change")
    text = check_memory(body.text.encode(), "memory")
    memory = Memory(body.id or journal_records.new_id("mem"), user, journal_records.now(), text, body.replace)
    job = await service.remember(memory, body.consolidate)
    statements = len(sessions.stated(text))
    return {"object": "memory", "id": memory.id, "user": user, "statements": statements, "job": job.id if job else None}


@routes.get("/users/{user:path}/memory")
async def show_memory(user: str, key: Caller, service: Here) -> dict[str, Any]:
    """All that a user wants known, and how much of it the champion was not made of."""
    user = subject(key, user, "read")
    standing = await asyncio.to_thread(service.memories.standing, user)
    return {"object": "memory", "user": user, "text": standing.memory, "fresh": list(standing.fresh)}


@routes.get("/users/{user:path}/adapters/{number}/report")
async def report(user: str, number: int, key: Caller, service: Here) -> FileResponse:
    """The gates' report of one version, as a page."""
    user = subject(key, user, "read")
    path = service.store.version_dir(user, number) / "gate_report.html"
    if not path.is_file():
        raise NotFound(f"v{number} of {user!r} has no report")
    return FileResponse(path, media_type="text/html", headers=_REPORT_HEADERS)


@routes.get("/users/{user:path}/adapters")
async def list_adapters(user: str, key: Caller, service: Here) -> dict[str, Any]:
    """A user's versions, oldest first."""
    user = subject(key, user, "read")
    return {"object": "list", "data": await asyncio.to_thread(_versions, service, user)}


@routes.post("/users/{user:path}/rollback")
async def roll_back(user: str, key: Caller, service: Here, body: RollbackBody | None = None) -> dict[str, Any]:
    """Serve the champion before, or a version."""
    user = subject(key, user, "change")
    moved = await asyncio.to_thread(service.rollback, user, body.version if body else None)
    return {"object": "alias", "user": user, "version": moved.number, "before": moved.before}


@routes.post("/users/{user:path}/consolidate", status_code=202)
async def consolidate(user: str, key: Caller, service: Here, body: ConsolidateBody | None = None) -> dict[str, Any]:
    """Queue a consolidation now."""
    user = subject(key, user, "change")
    settings = check_settings(body.settings) if body else ()
    job = await asyncio.to_thread(service.consolidate, user, settings, "asked for")
    return _job(service, job)


@routes.get("/users/{user:path}/sessions")
async def list_sessions(user: str, key: Caller, service: Here) -> dict[str, Any]:
    """A user's sessions, in the order they began."""
    user = subject(key, user, "read")

    def found() -> list[dict[str, Any]]:
        records = service.journal.records("exchange", "session_end", user=user)
        return [asdict(session) for session in sessions.sessions(records)]

    return {"object": "list", "data": await asyncio.to_thread(found)}


@routes.post("/users/{user:path}/sessions/{session}/end")
async def end_session(user: str, session: str, key: Caller, service: Here) -> dict[str, Any]:
    """A session is over; the reply says what the policy made of it."""
    user = subject(key, user, "change")
    if session not in service.open_sessions(user):
        raise NotFound(f"user {user!r} has no open session {session[:80]!r}")
    job, decision = await service.end_session(user, session, "asked")
    made = {"decision": decision.why, "job": job.id if job else None}
    return {"object": "session", "user": user, "id": session, **made}


@routes.post("/users/{user:path}/forget")
async def forget(user: str, key: Caller, service: Here) -> dict[str, Any]:
    """Remove everything of a user; the counts say what, and that nothing remains."""
    user = subject(key, user, "change")
    return {"object": "forgotten", "user": user, "removed": await asyncio.to_thread(service.forget, user)}


@routes.get("/users/{user:path}")
async def show_user(user: str, key: Caller, service: Here) -> dict[str, Any]:
    """Where a user stands."""
    user = subject(key, user, "read")
    return await asyncio.to_thread(_summary, service, user)


# ---- jobs


@routes.get("/jobs")
async def list_jobs(
    key: Caller, service: Here, user: str | None = None, ended: Annotated[int, Query(ge=0, le=1000)] = 20
) -> dict[str, Any]:
    """JobQueue that are queued or running, and the newest that ended."""
    whose = subject(key, user, "read") if user is not None or key.own is not None else None
    found = await asyncio.to_thread(service.jobs.all, whose, ended)
    mine = [job for job in found if keys.allowed(key, job.user, "read")]
    return {"object": "list", "data": [_job(service, job) for job in mine]}


@routes.get("/jobs/{name}")
async def show_job(name: str, key: Caller, service: Here) -> dict[str, Any]:
    """One job with its progress."""
    return _job(service, _own_job(service, key, name))


@routes.post("/jobs/{name}/cancel")
async def cancel_job(name: str, key: Caller, service: Here) -> dict[str, Any]:
    """Cancel a queued job at once, a running one within seconds."""
    _own_job(service, key, name)
    return _job(service, await asyncio.to_thread(service.jobs.cancel, name))


@routes.get("/jobs/{name}/events")
async def follow_job(name: str, key: Caller, service: Here, request: Request) -> StreamingResponse:
    """What happens to a job from now on, as server-sent events; ends when it does."""
    _own_job(service, key, name)
    followed = _follow(service, request, lambda e: getattr(e.fact, "job", None) == name, lambda: _over(service, name))
    return StreamingResponse(followed, media_type="text/event-stream")


@routes.get("/events")
async def follow_events(key: Caller, service: Here, request: Request) -> StreamingResponse:
    """What happens from now on, or since `Last-Event-ID`, as server-sent events: of the users the key may read."""

    def wanted(event: Event) -> bool:
        return keys.allowed(key, event.user, "read" if event.user is not None else "metrics")

    return StreamingResponse(_follow(service, request, wanted), media_type="text/event-stream")


# ---- the server


@routes.get("/stats")
async def stats(key: Caller, service: Here) -> dict[str, Any]:
    """The figures of `/metrics`, for a page."""
    server_wide(key, "metrics")
    return await asyncio.to_thread(service.stats)


@routes.get("/keys")
async def list_keys(key: Caller, service: Here) -> dict[str, Any]:
    """Every key that was ever made, without its secret."""
    server_wide(key, "admin")
    return {"object": "list", "data": [_key_row(k) for k in service.keyring.all()]}


@routes.post("/keys", status_code=201)
async def create_key(body: KeyBody, key: Caller, service: Here) -> dict[str, Any]:
    """A new key; its secret is in this reply and nowhere else."""
    server_wide(key, "admin")
    secret, made = await asyncio.to_thread(
        lambda: service.keyring.create(body.scope, tenant=body.tenant, user=body.user, days=body.days, note=body.note)
    )
    return _key_row(made) | {"secret": secret}


@routes.delete("/keys/{name}")
async def revoke_key(name: str, key: Caller, service: Here) -> dict[str, Any]:
    """End a key at once."""
    server_wide(key, "admin")
    return _key_row(await asyncio.to_thread(service.keyring.revoke, name))


def page(text: str) -> HTMLResponse:
    """The page at `/`, which loads nothing from anywhere else."""
    policy = (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; img-src 'self' data:"
    )
    return HTMLResponse(text, headers={"Content-Security-Policy": policy, "X-Frame-Options": "DENY"})


def _summary(service: Service, user: str) -> dict[str, Any]:
    champion = service.store.champion(user)
    standing = service.memories.standing(user)
    live = [job.id for job in service.jobs.all(user, ended=0)]
    return {
        "object": "user", "id": user, "version": champion.number if champion else None,
        "versions": len(service.store.versions(user)), "fresh": len(standing.fresh), "learned": standing.learned,
        "memory_bytes": len(standing.memory.encode()), "open_sessions": sorted(service.open_sessions(user)),
        "jobs": live,
    }  # fmt: skip


def _versions(service: Service, user: str) -> list[dict[str, Any]]:
    champion = service.store.champion(user)
    served = champion.number if champion else None
    return [
        {
            "object": "adapter", "user": user, "version": v.number, "approved": v.approved, "created": v.created,
            "champion": v.number == served, "base": v.base, "model": f"{service.model.ref}:user/{user}/v{v.number}",
            "report": f"/v1/users/{user}/adapters/{v.number}/report",
        }
        for v in service.store.versions(user)
    ]  # fmt: skip


def _own_job(service: Service, key: ApiKey, name: str) -> Job:
    """A job that the key may see; another's is as little there as none."""
    job = service.jobs.get(name)
    if not keys.allowed(key, job.user, "read"):
        raise NotFound(f"there is no job {name[:80]!r}; `stillhouse jobs list` shows them")
    return job


def _job(service: Service, job: Job) -> dict[str, Any]:
    live = job.state in LIVE
    progress = asdict(service.jobs.progress(job.id)) if live else None
    return {"object": "job", **asdict(job), "progress": progress}


def _over(service: Service, name: str) -> bool:
    try:
        return service.jobs.get(name).state not in LIVE
    except NotFound:
        return True


def _key_row(key: ApiKey) -> dict[str, Any]:
    return {k: v for k, v in asdict(key).items() if k != "sha256"}


async def _follow(
    service: Service, request: Request, wanted: Callable[[Event], bool], over: Callable[[], bool] = lambda: False
) -> AsyncIterator[str]:
    last = request.headers.get("last-event-id", "")
    tail = await asyncio.to_thread(service.events.tail, int(last) if last.isdecimal() and len(last) < 16 else None)
    quiet = 0.0
    while not service.closing:
        ended = await asyncio.to_thread(over)
        said = [event.sse() for event in await asyncio.to_thread(tail.next) if wanted(event)]
        quiet = 0.0 if said else quiet + POLL_SECONDS
        if quiet >= KEEP_ALIVE:
            said, quiet = [": still here\n\n"], 0.0
        for text in said:
            yield text
        if ended:
            return
        await asyncio.sleep(POLL_SECONDS)
