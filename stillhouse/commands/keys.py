"""`stillhouse keys`: who may use the server."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from ..cli.shell import command, show
from ..inputs import home_folder


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser("keys", help="API keys: create, list, revoke.")
    verbs = parser.add_subparsers(required=True, metavar="create|list|revoke")
    create_parser = command(verbs, "create", create, "Make a key. It is printed once and cannot be shown again.")
    create_parser.add_argument("--scope", choices=("user", "tenant", "admin"), default="user")
    create_parser.add_argument("--tenant", default="", help="a tenant's users are kept apart from all others")
    create_parser.add_argument("--user", default="", help="whose key it is (scope user)")
    create_parser.add_argument("--days", type=float, help="how long it lasts (default: until it is revoked)")
    create_parser.add_argument("--note", default="", help="what it is for")
    command(verbs, "list", list_all, "All keys that were ever made, without their secrets.")
    revoke_parser = command(verbs, "revoke", revoke, "End a key at once.")
    revoke_parser.add_argument("id", metavar="ID")


def create(args: argparse.Namespace) -> None:
    """`stillhouse keys create`."""
    from ..serve.access.keys import Keyring

    keyring = Keyring(home_folder(args.home))
    secret, key = keyring.create(args.scope, tenant=args.tenant, user=args.user, days=args.days, note=args.note)
    show(_row(key) | {"secret": secret}, args.json, lambda: print(secret))


def list_all(args: argparse.Namespace) -> None:
    """`stillhouse keys list`."""
    from ..serve.access.keys import Keyring

    keys = Keyring(home_folder(args.home)).all()

    def lines() -> None:
        for key in keys:
            whose = "/".join(part for part in (key.tenant, key.user) if part) or "everybody"
            state = f"revoked {key.revoked}" if key.revoked else f"until {key.expires}" if key.expires else "live"
            print(f"{key.id}  {key.scope:<6}  {whose}  {state}  {key.note}".rstrip())

    show([_row(key) for key in keys], args.json, lines)


def revoke(args: argparse.Namespace) -> None:
    """`stillhouse keys revoke`."""
    from ..serve.access.keys import Keyring

    key = Keyring(home_folder(args.home)).revoke(args.id)
    show(_row(key), args.json, lambda: print(f"{key.id} ended {key.revoked}"))


def _row(key: Any) -> dict[str, Any]:
    """A key for JSON, without its hash."""
    return {name: value for name, value in asdict(key).items() if name != "sha256"}
