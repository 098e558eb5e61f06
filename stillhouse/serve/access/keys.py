"""API keys: who may do what. A key is shown once; only its SHA-256 is kept.

In: the secret of a request, a user, an action. Out: an `ApiKey`, yes or no. `<home>/keys.json` holds every key that
was ever made, the revoked ones too. A secret has 256 random bits, so its plain SHA-256 cannot be searched through;
secrets are compared in constant time, and an unknown id takes as long as a wrong secret.

A tenant's users are `tenant/user` in the store. A key of a tenant or user can only name users below its own prefix,
so no request of it can name another's user. It does not know HTTP.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import re
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from ...errors import InputError, NotFound, StoreError
from ...records import canonical, from_mapping
from ...storage.files import make_folder, write_atomic
from ...storage.locks import locked
from ...store.names import check_user

Scope = Literal["user", "tenant", "admin"]
Action = Literal["ask", "read", "change", "users", "metrics", "admin"]
FORMAT = 1
PREFIX = "sk-still"

_TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SECRET = re.compile(rf"{PREFIX}-([0-9a-f]{{12}})-([A-Za-z0-9_-]{{43}})")
_NOBODY = hashlib.sha256(b"nobody").hexdigest()
_OF_A_USER = frozenset({"ask", "read", "change"})


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret. Its scope: one user of a tenant, all users of a tenant, or (admin) everybody.

    Times are ISO 8601, UTC; `expires` and `revoked` are empty where they do not apply.
    """

    id: str
    sha256: str
    scope: Scope
    tenant: str = ""
    user: str = ""
    created: str = ""
    expires: str = ""
    revoked: str = ""
    note: str = ""

    @property
    def own_user(self) -> str | None:
        """The user this key alone speaks for, as the store names them."""
        return _joined(self.tenant, self.user) if self.scope == "user" else None

    def is_live(self, at: datetime.datetime) -> bool:
        """Whether it is neither revoked nor past its day."""
        return not self.revoked and (not self.expires or at < datetime.datetime.fromisoformat(self.expires))


LOCAL = ApiKey("", "", "admin", note="nobody asked for a key: the server listens on this machine only")


def allowed(key: ApiKey, user: str | None, action: Action) -> bool:
    """Whether `key` may do `action` to `user` (as the store names them; None: to no one user).

    `ask`, `read` and `change` are about one user: answers, stored data, changes of it. `users` lists a tenant's users.
    `metrics` and `admin` are about the whole server.
    """
    if key.scope == "admin":
        return True
    if user is None:
        return action == "users" and key.scope == "tenant"
    if action not in _OF_A_USER:
        return False
    return user == key.own_user if key.scope == "user" else bool(key.tenant) and user.startswith(f"{key.tenant}/")


def stored_user(key: ApiKey, name: str | None) -> str | None:
    """The user a request is about, as the store names them. `name`: the user that the request names, if any.

    A user's key may leave the name out, or give its own. Any other name is taken as one below the key's prefix, and
    `allowed` refuses it. `InputError`: the name cannot be a user's.
    """
    if name is None or name == "":
        return key.own_user
    if key.scope == "admin":
        return check_user(name)
    inside = name.removeprefix(f"{key.tenant}/") if key.tenant else name
    return check_user(_joined(key.tenant, inside))


class Keyring:
    """The keys of one home. The file is read again when it has changed, so a revoked key ends at once."""

    def __init__(self, home: Path) -> None:
        self.path = Path(home).expanduser() / "keys.json"
        self._lock = self.path.parent / "locks" / ".keys"
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[str, ApiKey] = {}

    def all(self) -> list[ApiKey]:
        """Every key, oldest first."""
        self._refresh()
        return list(self._keys.values())

    def find(self, secret: str, at: datetime.datetime | None = None) -> ApiKey | None:
        """The live key of a secret, or None, whatever is wrong with it."""
        self._refresh()
        match = _SECRET.fullmatch(secret) if secret.isascii() else None
        key = self._keys.get(match[1]) if match else None
        same = hmac.compare_digest(_hash(secret), key.sha256 if key else _NOBODY)
        return key if key and same and key.is_live(at or _now()) else None

    def create(
        self, scope: Scope, *, tenant: str = "", user: str = "", days: float | None = None, note: str = ""
    ) -> tuple[str, ApiKey]:
        """A new key and its secret, which is not kept. `InputError` where scope, tenant and user do not fit."""
        _check(scope, tenant, user, days)
        name = secrets.token_hex(6)
        secret = f"{PREFIX}-{name}-{secrets.token_urlsafe(32)}"
        made = _now()
        expires = (made + datetime.timedelta(days=days)).isoformat(timespec="seconds") if days is not None else ""
        created = made.isoformat(timespec="seconds")
        key = ApiKey(name, _hash(secret), scope, tenant, user, created, expires, note=note)
        make_folder(self._lock.parent)
        with locked(self._lock, "the keys are being changed"):
            self._write([*self.all(), key])
        return secret, key

    def revoke(self, name: str) -> ApiKey:
        """End a key. `NotFound` if there is none of that id; revoking twice changes nothing."""
        make_folder(self._lock.parent)
        with locked(self._lock, "the keys are being changed"):
            existing = self.all()
            if name not in self._keys:
                raise NotFound(f"there is no key {name[:80]!r}; `stillhouse keys list` shows them")
            key = self._keys[name]
            if not key.revoked:
                key = replace(key, revoked=_now().isoformat(timespec="seconds"))
                self._write([key if k.id == name else k for k in existing])
        return key

    def _write(self, keys: list[ApiKey]) -> None:
        write_atomic(self.path, canonical({"format": FORMAT, "keys": [asdict(k) for k in keys]}))
        self.path.chmod(0o600)

    def _refresh(self) -> None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._seen, self._keys = None, {}
            return
        if (seen := (status.st_ino, status.st_mtime_ns, status.st_size)) != self._seen:
            self._keys, self._seen = {k.id: k for k in _read(self.path)}, seen


def _read(path: Path) -> list[ApiKey]:
    try:
        raw = json.loads(path.read_bytes())
        rows, version = raw["keys"], raw["format"]
    except (ValueError, TypeError, KeyError):
        raise StoreError(f"{str(path)!r} is damaged; restore it, or delete it and create keys anew") from None
    if version != FORMAT:
        raise StoreError(
            f"{str(path)!r} has format {version!r}, this program reads {FORMAT}; use the one that wrote it"
        )
    return [from_mapping(ApiKey, row) for row in rows]


def _check(scope: str, tenant: str, user: str, days: float | None) -> None:
    if scope not in get_args(Scope):
        raise InputError(f"scope {scope!r}: allowed are {', '.join(get_args(Scope))}")
    if tenant and not _TENANT.fullmatch(tenant):
        raise InputError(f"tenant {tenant[:80]!r}: 1 to 64 of the characters A-Z a-z 0-9 _ - are allowed")
    needs = {"user": bool(user), "tenant": bool(tenant) and not user, "admin": not tenant and not user}
    if not needs[scope]:
        raise InputError(
            f"a key of scope {scope!r} needs: user: --user (and --tenant); tenant: --tenant; admin: neither"
        )
    if user:
        check_user(_joined(tenant, user))
    if days is not None and not 0 < days < 36500:
        raise InputError(f"days {days!r}: more than 0 and less than 36500 is allowed; leave it out for no end")


def _joined(tenant: str, user: str) -> str:
    return f"{tenant}/{user}" if tenant else user


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
