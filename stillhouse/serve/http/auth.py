"""Which key a request has and which user it may name: keys, limits, and the hosts and pages that are answered.

In: a request's headers, and the user it names. Out: the key and that user's name in the store, or 401, 403 or 429. A
server without keys answers only where `Host` is a name of this machine: a web page that points its own name here (DNS
rebinding) sends that name instead. A page of another origin is known by its `Origin`. It does not know what the
request is for.
"""

from __future__ import annotations

import ipaddress
import math
import re
from typing import Annotated

from fastapi import Depends, Request

from ...errors import InputError
from ..access import keys
from ..access.keys import LOCAL, Action, ApiKey
from ..errors import Forbidden, Overloaded, Unauthorized
from ..service import Service

_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\s:@/\[\]]+))(?::[0-9]*)?")


def service_of(request: Request) -> Service:
    """The service of the app that the request came to."""
    service = request.app.state.service
    assert isinstance(service, Service), "set by create_app"
    return service


def caller(request: Request) -> ApiKey:
    """The key of a request, counted against its limits. `Unauthorized`, `Forbidden`, `Overloaded`."""
    service = service_of(request)
    _check_origin(request)
    key = _key(request, service)
    wait = service.limits.take_request(key.id or "local")
    if wait > 0:
        raise Overloaded(f"too many requests with this key; try again in {wait:.1f} s", math.ceil(wait))
    return key


def _key(request: Request, service: Service) -> ApiKey:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if not service.keyring.all() and request.app.state.local:
        header = request.headers.get("host")  # a browser always sends one
        if header and not is_this_machine(host_of(header)):
            raise Forbidden("without keys this server answers to localhost and loopback addresses (127.0.0.1) alone")
        return LOCAL
    key = service.keyring.find(secret.strip()) if scheme.lower() == "bearer" else None
    if key is None:
        raise Unauthorized("a valid API key is needed, as 'Authorization: Bearer sk-still-…'")
    return key


def host_of(header: str) -> str:
    """The host in a `Host` header (RFC 9110, 7.2), without its port and brackets; empty if the header is malformed."""
    match = _HOST.fullmatch(header)
    return (match["ipv6"] or match["name"]).lower() if match else ""


def is_this_machine(host: str) -> bool:
    """Whether a host name or address always means the machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_origin(request: Request) -> None:
    """Refuse requests from web pages of other origins: they would act with what the browser may reach."""
    origin = request.headers.get("origin")
    if origin and origin.split("://", 1)[-1] != request.headers.get("host"):
        raise Forbidden(f"requests from pages of {origin[:80]} are not answered")


def resolve_user(key: ApiKey, name: str | None, action: Action) -> str:
    """The user a request is about, as the store names them. `Forbidden`; `InputError`: no user is named."""
    user = keys.stored_user(key, name)
    if user is None:
        raise InputError("name the user: this key speaks for more than one")
    return check_allowed(key, user, action)


def check_allowed(key: ApiKey, user: str, action: Action) -> str:
    """The same user. `Forbidden`: the key may not. The message is the same whether or not there is such a user."""
    if not keys.allowed(key, user, action):
        raise Forbidden(f"this key may not {action} user {user[:80]!r}")
    return user


def require_server_scope(key: ApiKey, action: Action) -> None:
    """Raise `Forbidden` unless the key reaches the whole server."""
    if not keys.allowed(key, None, action):
        raise Forbidden("this key does not reach the whole server: an admin's is needed")


def charge_tokens(service: Service, key: ApiKey, tokens: int) -> None:
    """Count tokens against the key's limit. `Overloaded`: there are too many this minute."""
    wait = service.limits.take_tokens(key.id or "local", tokens)
    if wait > 0:
        raise Overloaded(f"too many tokens with this key; try again in {wait:.1f} s", int(wait) + 1)


CallerKey = Annotated[ApiKey, Depends(caller)]
AppService = Annotated[Service, Depends(service_of)]
