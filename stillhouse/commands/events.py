"""`stillhouse events`: what the system did, and what it does now."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..cli.shell import command
from ..errors import InputError
from ..inputs import home_folder

_ENVELOPE = ("seq", "time", "type", "user")


def add(commands: Any) -> None:
    """Declare it."""
    parser = command(commands, "events", run, "What the system did: jobs, versions, aliases, adapters, routes.")
    parser.add_argument("--follow", action="store_true", help="go on as new ones come, until interrupted")
    parser.add_argument("--after", type=int, help="only those after this number (default: the last 50)")
    parser.add_argument("--type", action="append", help="only of this type; give it again for more")
    parser.add_argument("--user", help="only about this user")


def run(args: argparse.Namespace) -> None:
    """`stillhouse events`; with `--json` one object per line."""
    from ..serve.log.event_types import TYPES
    from ..serve.log.events import EventLog

    unknown = set(args.type or ()) - set(TYPES)
    if unknown:
        raise InputError(f"no events are of type {sorted(unknown)}; there are: {', '.join(TYPES)}")
    log = EventLog(home_folder(args.home))
    newest = log.last()
    after = max(0, newest - 50) if args.after is None else args.after
    for event in log.follow(after, stop=lambda: False) if args.follow else log.between(after, newest):
        if (not args.type or event.fact.type in args.type) and (args.user is None or event.user == args.user):
            print(json.dumps(event.as_dict(), ensure_ascii=False) if args.json else _line(event), flush=True)


def _line(event: Any) -> str:
    facts = event.as_dict()
    details = {name: value for name, value in facts.items() if name not in _ENVELOPE and value not in ("", None)}
    rest = "  ".join(f"{name} {value if str(value).isprintable() else repr(value)}" for name, value in details.items())
    return f"{facts['seq']:>8}  {facts['time'][:19]}  {facts['type']:<16} {facts.get('user', '')}  {rest}"
