"""`stillhouse report`: the HTML page of a verdict, made again from the store."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..cli.shell import command, open_store, show
from ..errors import InputError


def add(commands: Any) -> None:
    """Declare it."""
    parser = command(commands, "report", run, "Write the HTML page of a verdict again, and say where it is.")
    parser.add_argument("id", metavar="ID", help="user, user@version, or the start of a digest")
    parser.add_argument("--to", type=Path, help="write it here; default: a folder of the store that `forget` removes")
    parser.add_argument("--open", action="store_true", help="show it in a browser")


def run(args: argparse.Namespace) -> None:
    """`stillhouse report`."""
    from ..cli.candidate import find, page
    from ..records import digest
    from ..storage.files import write_atomic

    store = open_store(args)
    judged = find(store, args.id)
    if judged.verdict is None:
        raise InputError(f"candidate {judged.digest[:12]} has no verdict yet; run `stillhouse gate {args.id}` first")
    verdict = digest(judged.verdict)
    if args.to is not None and (args.to.is_dir() or not args.to.parent.is_dir()):
        raise InputError(f"{str(args.to)!r} is no file that can be written; name one in a folder that exists")
    target = args.to or store.work(digest(["report", verdict]), [judged.candidate.user]) / "report.html"
    write_atomic(target, page(store, judged, judged.verdict).encode())
    if args.open:
        import webbrowser

        webbrowser.open(target.resolve().as_uri())
    result = {"report": str(target), "verdict": verdict, "passed": judged.verdict.passed}
    show(result, args.json, lambda: print(target))
