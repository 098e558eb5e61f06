"""`stillhouse store`: check the store, or make its index again; keep its blobs in a bucket."""

from __future__ import annotations

import argparse
from typing import Any

from ..cli.shell import command, open_store, show
from ..errors import Rejected


def add(commands: Any) -> None:
    """Declare it."""
    parser = commands.add_parser("store", help="Check the store, or make its index again.")
    verbs = parser.add_subparsers(required=True, metavar="verify|rebuild|bucket")
    command(verbs, "verify", verify, "Check every blob, manifest, version and alias.")
    command(verbs, "rebuild", rebuild, "Make registry.duckdb again from the manifests.")
    moved = command(verbs, "bucket", bucket, "Keep the blobs in a bucket of an S3-compatible store from now on.")
    moved.add_argument("url", metavar="s3://BUCKET/PREFIX", help="endpoint and credentials: as for the AWS tools")


def verify(args: argparse.Namespace) -> None:
    """`stillhouse store verify`; `Rejected` when there are problems."""
    problems = open_store(args).verify()
    show({"clean": not problems, "problems": problems}, args.json, lambda: print("\n".join(problems) or "clean"))
    if problems:
        raise Rejected(f"the store has {len(problems)} problem(s)")


def rebuild(args: argparse.Namespace) -> None:
    """`stillhouse store rebuild`."""
    rows = open_store(args).rebuild()
    show({"rows": rows}, args.json, lambda: print(f"registry.duckdb made again: {rows} rows"))


def bucket(args: argparse.Namespace) -> None:
    """`stillhouse store bucket`; run it while no server and no worker uses the home."""
    from ..store.layout import use_bucket

    count = use_bucket(open_store(args).home, args.url)
    show({"url": args.url, "blobs": count}, args.json, lambda: print(f"{count} blobs are in {args.url}"))
