"""`stillhouse serve`: one process that a team can use."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..cli.shell import command
from ..errors import InputError
from ..inputs import home_folder
from .jobs import add_executor


def add(commands: Any) -> None:
    """Declare it."""
    about = "Serve the base and every user's adapter behind an OpenAI-compatible API."
    parser = command(commands, "serve", run, about)
    parser.add_argument("--model", default=None, help="base to serve (default: the model that ships)")
    parser.add_argument("--host", default="127.0.0.1", help="any address but this machine's needs keys")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument("--workers", type=int, default=1, help="processes that consolidate (default 1; 0: none here)")
    add_executor(parser)
    parser.add_argument("--config", help="TOML file with [engine], [policy], [limits] and the server's own settings")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. engine.rows=16")
    parser.add_argument("--deterministic", action="store_true", help="the same tokens alone and in any batch; slower")


def run(args: argparse.Namespace) -> None:
    """`stillhouse serve`."""
    try:
        import fastapi  # noqa: F401 - whether the extra is installed
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; pip install 'stillhouse[serve]'") from None
    if not 0 <= args.port <= 65535:
        raise InputError(f"--port {args.port}: 0 to 65535 are allowed")
    if not 0 <= args.workers <= 64:
        raise InputError(f"--workers {args.workers}: 0 to 64 are allowed")
    from ..serve.run import listen, read_config

    where = [
        "--executor",
        args.executor,
        "--ray-gpus",
        str(args.ray_gpus),
        *(["--ray-address", args.ray_address] if args.ray_address else []),
    ]
    config = read_config(args.config, args.set, deterministic=args.deterministic)
    listen(
        home_folder(args.home), args.model, config, host=args.host, port=args.port, workers=args.workers,
        worker_arguments=where,
        ready=lambda url: print(f"stillhouse: {url} (OpenAI base_url: {url}/v1)", file=sys.stderr, flush=True),
    )  # fmt: skip
