"""From a home and an address to a server that runs until it is told to stop.

In: `--home`, `--model`, settings, an address. Out: a uvicorn server with its worker processes. On SIGTERM or SIGINT it
goes on for a few seconds with the answers it has begun; everything acknowledged is on disk. Workers end when it does,
however it ends. It does not know routes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uvicorn

from .. import models
from ..config import resolve
from ..errors import InputError
from ..inputs import read_tables
from .http.app import CLOSING_SECONDS, check_address, create_app
from .jobs import worker
from .service import Config, Service


def read_config(file: str | None, assignments: Sequence[str], *, deterministic: bool = False) -> Config:
    """Settings of a TOML file with `key=value` assignments over them. `InputError` names what is wrong."""
    config = resolve(Config, read_tables(Path(file) if file else None, assignments), "serve")
    if deterministic:
        config = dataclasses.replace(config, engine=dataclasses.replace(config.engine, deterministic=True))
    return config


def listen(
    home: Path, model: str | None, config: Config, *, host: str, port: int, workers: int, ready: Callable[[str], None],
    worker_arguments: Sequence[str] = (),
) -> None:  # fmt: skip
    """Serve until told to stop; `worker_arguments` as for `stillhouse jobs run`.

    `ready(url)` is called once requests are taken. `InputError`: the address.
    """
    with bound(host, port) as listening:
        service = Service.open(home, model or models.DEFAULT, config)
        local = check_address(service, host)
        settings = uvicorn.Config(
            create_app(service, local=local),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=CLOSING_SECONDS,
            timeout_keep_alive=75,
        )
        with _workers(home, workers, worker_arguments):
            ready(url_of(listening))
            uvicorn.Server(settings).run(sockets=[listening])


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket. `InputError`: the port is taken, or the host is not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise InputError(f"--host {host}: {error.strerror}") from None
    with socket.socket(family, kind, protocol) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
        except OSError as error:
            hint = "another program has it: choose another with --port" if error.errno == errno.EADDRINUSE else ""
            raise InputError(f"cannot listen at {host}:{port}: {error.strerror}; {hint}".rstrip("; ")) from None
        listening.listen(2048)
        yield listening


def url_of(listening: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def _workers(home: Path, count: int, arguments: Sequence[str]) -> Iterator[None]:
    """Worker processes for as long as the block runs."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        started += [worker.start(home, arguments) for _ in range(count)]
        yield
    finally:
        for process in started:
            assert process.stdin is not None, "started with a pipe"
            process.stdin.close()
        for process in started:
            process.wait()
