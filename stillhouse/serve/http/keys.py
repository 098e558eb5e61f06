"""Our own routes about API keys, for admins.

In: checked bodies and an admin's key. Out: keys without their secrets; a new key's secret once.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from ..access.keys import ApiKey
from .auth import AppService, CallerKey, require_server_scope
from .schema import KeyBody

routes = APIRouter(prefix="/v1")


@routes.get("/keys")
async def list_keys(key: CallerKey, service: AppService) -> dict[str, Any]:
    """Every key that was ever made, without its secret."""
    require_server_scope(key, "admin")
    return {"object": "list", "data": [_key_row(k) for k in service.keyring.all()]}


@routes.post("/keys", status_code=201)
async def create_key(body: KeyBody, key: CallerKey, service: AppService) -> dict[str, Any]:
    """Create a key; its secret is in this response and nowhere else."""
    require_server_scope(key, "admin")
    secret, created = await asyncio.to_thread(
        lambda: service.keyring.create(body.scope, tenant=body.tenant, user=body.user, days=body.days, note=body.note)
    )
    return _key_row(created) | {"secret": secret}


@routes.delete("/keys/{name}")
async def revoke_key(name: str, key: CallerKey, service: AppService) -> dict[str, Any]:
    """End a key at once."""
    require_server_scope(key, "admin")
    return _key_row(await asyncio.to_thread(service.keyring.revoke, name))


def _key_row(key: ApiKey) -> dict[str, Any]:
    return {k: v for k, v in asdict(key).items() if k != "sha256"}
