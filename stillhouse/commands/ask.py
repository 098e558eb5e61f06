"""`stillhouse ask`: one question, one answer."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from ..cli.shell import command, open_store, show


def add(commands: Any) -> None:
    """Declare it."""
    about = "Ask a user's weights, or a memory in the context, or the base alone."
    parser = command(commands, "ask", run, about)
    parser.add_argument("question")
    parser.add_argument("--user")
    parser.add_argument("--memory", help="memory file to put in the context (the teacher)")
    parser.add_argument("--model", default=None, help="default: the base of the user's adapter")


def run(args: argparse.Namespace) -> None:
    """`stillhouse ask`."""
    from .. import inputs
    from ..serve.ask import ask

    memory = inputs.read_memory(args.memory) if args.memory else None
    reply = ask(open_store(args), args.question, args.user, memory, args.model)
    show(asdict(reply), args.json, lambda: print(reply.answer))
