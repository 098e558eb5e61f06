"""A batch of consolidations on another machine: the work goes out with what it needs, versions come back.

In: a home, a batch as a worker hands it to its child, a Ray cluster's address. Out: the result of `jobs batch`, with
the new versions saved in this home under its own numbers. The node gets a home of its own with the calibration and a
few other users' champions (the swap gate asks them), runs the same command there, and sends back its reports and the
versions it made with all they came from. It never opens this home. Saving twice changes nothing, so a driver that was
killed is simply run again.

Nodes need the same stillhouse and the base model. It does not know what a consolidation does.
"""

from __future__ import annotations

import io
import re
import socket
import sys
import tarfile
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError, StillhouseError, StoreError
from ...processes import Process, ProcessDied, error_fields, error_of
from ...progress import Report
from ...records import Candidate, Signals, Verdict, Version, from_mapping
from ...store import Store
from ...store.versions import VERSION_FILE

CALIBRATION = "calibration"
OTHERS = 4  # champions of other users that go along
REACH_SECONDS = 10.0
COMMAND = (sys.executable, "-m", "stillhouse.cli", "jobs", "batch")

Answer = dict[str, Any]  # the result of `jobs batch`, or the fields of its error


def consolidate(
    home: Path,
    work: Mapping[str, Any],
    address: str | None,
    report: Callable[[Report], None],
    command: Sequence[str] = COMMAND,
    gpus: float = 0.0,
) -> Answer:
    """Run a batch on the cluster at `address` (None: the one Ray finds, else one on this machine); returns its result.

    `report` is called with the node's progress. `gpus` are reserved on the node; without any, Ray hides them all.
    `InputError`: Ray is not installed, or there is no such cluster. `StoreError`: the node or the cluster was lost. The
    errors of the batch are raised here.
    """
    ray = _ray()
    _check_reachable(address)
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, ray.exceptions.RayError) as error:
        raise InputError(f"no Ray cluster at {address or 'this machine'}: {error}") from None
    try:
        store = Store(home)
        node = ray.remote(max_retries=0, num_gpus=gpus)(run_packed)
        items = node.remote(packed_home(store, work["model"], work["memories"]), dict(work), list(command))
        for item in map(ray.get, items):
            if isinstance(item, tuple):
                return _saved_result(store, *item)
            report(from_mapping(Report, item))
    except ray.exceptions.RayError as error:
        raise StoreError(f"the Ray cluster lost the batch: {str(error).splitlines()[0]}; it is tried again") from error
    finally:
        ray.shutdown()
    raise StoreError("the Ray cluster ended the batch without a word; it is tried again")


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; pip install 'stillhouse[ray]'") from None
    return ray


def _check_reachable(address: str | None) -> None:
    """Raise `InputError` where nobody listens: Ray itself would wait for minutes."""
    if match := re.fullmatch(r"\[?(?P<host>[^/]+?)\]?:(?P<port>[0-9]+)", address or ""):
        try:
            socket.create_connection((match["host"], int(match["port"])), REACH_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise InputError(f"no Ray cluster at {address}: {error}; `ray start --head` prints its address") from None


def packed_home(store: Store, model: str, users: Collection[str]) -> bytes:
    """A small home for a node, as a tar file: the calibrations, and other users' champions on the same base."""
    with tempfile.TemporaryDirectory() as folder:
        small = Store(Path(folder) / "home")
        for version in _champions(store, model, users):
            copy_version(version, store, small)
        for file in sorted((store.home / CALIBRATION).glob("*.json")):
            (small.home / CALIBRATION).mkdir(exist_ok=True)
            (small.home / CALIBRATION / file.name).write_bytes(file.read_bytes())
        return _packed(small.home)


def run_packed(
    home: bytes, work: dict[str, Any], command: list[str]
) -> Iterator[dict[str, Any] | tuple[Answer, bytes]]:
    """On the node: the batch in a home of its own. Yields its reports, and last (answer, the home as a tar file)."""
    with tempfile.TemporaryDirectory() as folder:
        here = _unpacked(home, Path(folder))
        try:
            with Process([*command, "--home", str(here)], apart=True) as child:
                child.send(work)
                yield from child.reports()
                answer: Answer = child.result
        except ProcessDied as death:
            answer = error_fields(
                StoreError(f"the batch ended on its node with {death.how}: {death.last or 'no word'}")
            )
        except StillhouseError as error:
            answer = error_fields(error)
        yield answer, _packed(here)


def copy_version(version: Version, source: Store, target: Store, *, whole: bool = False) -> Version:
    """Save a version in another home, under that home's number; `whole`: with the signals and the memory.

    Returns the version there. One with this candidate and verdict is not saved again.
    """
    for existing in target.versions(version.user):
        if (existing.candidate, existing.verdict) == (version.candidate, version.verdict):
            return existing
    candidate, verdict = source.get(Candidate, version.candidate), source.get(Verdict, version.verdict)
    for digest in version.parents if whole else ():
        if digest in source.blobs:
            target.blobs.put(source.blobs.get(digest))
    for digest in candidate.parents if whole else ():
        signals = source.get(Signals, digest)
        for blob in (signals.shard, signals.study):
            target.blobs.put(source.blobs.get(blob))
        target.put(signals)
    folder = source.version_dir(version.user, version.number)
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != VERSION_FILE}
    return target.save_version(candidate, verdict, files, version.base_ref, version.parents)


def _saved_result(store: Store, answer: Answer, home: bytes) -> Answer:
    """The node's result, with its versions saved and numbered here. Raises the node's error."""
    if "error" in answer:
        raise error_of(answer)
    with tempfile.TemporaryDirectory() as folder:
        node = Store(_unpacked(home, Path(folder)))
        for row in answer["rows"]:
            version = next(v for v in node.versions(row["user"]) if v.number == row["version"])
            number = copy_version(version, node, store, whole=True).number
            folder_here = store.version_dir(row["user"], number)
            row |= {"version": number, "folder": str(folder_here), "report": str(folder_here / "gate_report.html")}
    return answer


def _champions(store: Store, model: str, users: Collection[str]) -> list[Version]:
    """Up to `OTHERS` champions of users outside the batch, made for a base of the same name."""
    champions: list[Version] = []
    for user in store.users():
        champion = store.champion(user) if user not in users else None
        if champion is not None and Path(champion.base_ref).name == Path(model).name:
            champions.append(champion)
        if len(champions) == OTHERS:
            break
    return champions


def _packed(folder: Path) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add(folder, "home")
    return data.getvalue()


def _unpacked(data: bytes, folder: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(folder, filter="data")
    return folder / "home"
