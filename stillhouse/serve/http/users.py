"""Our own routes about users: their memories, versions and sessions.

In: checked bodies and a key. Out: JSON, or a gate report as a page. A user's name may hold slashes: an admin writes
`tenant/name`. It does not know how anything is done.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse

from ...errors import NotFound
from ...inputs import check_memory
from .. import sessions
from ..access import keys
from ..jobs.queue import check_settings
from ..log import journal_records
from ..log.journal_records import Memory
from ..service import Service
from .auth import AppService, CallerKey, require_server_scope, resolve_user
from .jobs import job_row
from .schema import ConsolidateBody, MemoryBody, RollbackBody

routes = APIRouter(prefix="/v1")
_REPORT_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"}


@routes.get("/users")
async def list_users(
    key: CallerKey, service: AppService, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> dict[str, Any]:
    """Users with a version, an open session or a queued job."""
    if key.own_user is None and not keys.allowed(key, None, "users"):
        require_server_scope(key, "users")

    def summaries() -> list[dict[str, Any]]:
        names = {
            *service.store.users(),
            *(job.user for job in service.jobs.all(ended=0)),
            *service.users_with_sessions(),
        }
        mine = sorted(u for u in names if keys.allowed(key, u, "read"))
        return [_summary(service, user) for user in mine[:limit]]

    return {"object": "list", "data": await asyncio.to_thread(summaries)}


@routes.post("/users/{user:path}/memory")
async def add_memory(user: str, body: MemoryBody, key: CallerKey, service: AppService) -> dict[str, Any]:
    """Hand over a text to be remembered: answered from at once, consolidated when the policy says so."""
    user = resolve_user(key, user, "change")
    text = check_memory(body.text.encode(), "memory")
    memory = Memory(body.id or journal_records.new_id("mem"), user, journal_records.now(), text, body.replace)
    job = await service.remember(memory, body.consolidate)
    statements = len(sessions.stated(text))
    return {"object": "memory", "id": memory.id, "user": user, "statements": statements, "job": job.id if job else None}


@routes.get("/users/{user:path}/memory")
async def show_memory(user: str, key: CallerKey, service: AppService) -> dict[str, Any]:
    """All that a user wants known, and how much of it the champion was not made of."""
    user = resolve_user(key, user, "read")
    status = await asyncio.to_thread(service.memories.status, user)
    return {"object": "memory", "user": user, "text": status.memory, "fresh": list(status.fresh)}


@routes.get("/users/{user:path}/adapters/{number}/report")
async def report(user: str, number: int, key: CallerKey, service: AppService) -> FileResponse:
    """The gates' report of one version, as a page."""
    user = resolve_user(key, user, "read")
    path = service.store.version_dir(user, number) / "gate_report.html"
    if not path.is_file():
        raise NotFound(f"v{number} of {user!r} has no report")
    return FileResponse(path, media_type="text/html", headers=_REPORT_HEADERS)


@routes.get("/users/{user:path}/adapters")
async def list_adapters(user: str, key: CallerKey, service: AppService) -> dict[str, Any]:
    """A user's versions, oldest first."""
    user = resolve_user(key, user, "read")
    return {"object": "list", "data": await asyncio.to_thread(_versions, service, user)}


@routes.post("/users/{user:path}/rollback")
async def roll_back(user: str, key: CallerKey, service: AppService, body: RollbackBody | None = None) -> dict[str, Any]:
    """Serve the champion before, or a given version."""
    user = resolve_user(key, user, "change")
    moved = await asyncio.to_thread(service.rollback, user, body.version if body else None)
    return {"object": "alias", "user": user, "version": moved.number, "before": moved.before}


@routes.post("/users/{user:path}/consolidate", status_code=202)
async def consolidate(
    user: str, key: CallerKey, service: AppService, body: ConsolidateBody | None = None
) -> dict[str, Any]:
    """Queue a consolidation now."""
    user = resolve_user(key, user, "change")
    settings = check_settings(body.settings) if body else ()
    job = await asyncio.to_thread(service.consolidate, user, settings, "asked for")
    return job_row(service, job)


@routes.get("/users/{user:path}/sessions")
async def list_sessions(user: str, key: CallerKey, service: AppService) -> dict[str, Any]:
    """A user's sessions, in the order they began."""
    user = resolve_user(key, user, "read")

    def rows() -> list[dict[str, Any]]:
        records = service.journal.records("exchange", "session_end", user=user)
        return [asdict(session) for session in sessions.sessions(records)]

    return {"object": "list", "data": await asyncio.to_thread(rows)}


@routes.post("/users/{user:path}/sessions/{session}/end")
async def end_session(user: str, session: str, key: CallerKey, service: AppService) -> dict[str, Any]:
    """End a session; the response says what the policy decided."""
    user = resolve_user(key, user, "change")
    if session not in service.open_sessions(user):
        raise NotFound(f"user {user!r} has no open session {session[:80]!r}")
    job, decision = await service.end_session(user, session, "asked")
    outcome = {"decision": decision.why, "job": job.id if job else None}
    return {"object": "session", "user": user, "id": session, **outcome}


@routes.post("/users/{user:path}/forget")
async def forget(user: str, key: CallerKey, service: AppService) -> dict[str, Any]:
    """Remove everything of a user; the counts say what, and that nothing remains."""
    user = resolve_user(key, user, "change")
    return {"object": "forgotten", "user": user, "removed": await asyncio.to_thread(service.forget, user)}


@routes.get("/users/{user:path}")
async def show_user(user: str, key: CallerKey, service: AppService) -> dict[str, Any]:
    """One user: versions, memory, open sessions and jobs."""
    user = resolve_user(key, user, "read")
    return await asyncio.to_thread(_summary, service, user)


def _summary(service: Service, user: str) -> dict[str, Any]:
    champion = service.store.champion(user)
    status = service.memories.status(user)
    live = [job.id for job in service.jobs.all(user, ended=0)]
    return {
        "object": "user", "id": user, "version": champion.number if champion else None,
        "versions": len(service.store.versions(user)), "fresh": len(status.fresh), "learned": status.learned,
        "memory_bytes": len(status.memory.encode()), "open_sessions": sorted(service.open_sessions(user)),
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
