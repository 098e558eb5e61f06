"""Do many processes that save at once, some of them killed, lose or mix up anything?

In: how many processes, versions per process, kills. Out: one table and PASS or FAIL (exit code 1). Half of the versions
go to one user all processes share, half to the process's own. A worker writes a line once `save_version` has returned:
that is the acknowledgement. `--kills` workers get SIGKILL at a random moment and are started again with what is left.
Checked afterwards in the folders: every acknowledged version is there with its bytes, numbers are unique, `verify` is
clean, the index has every version, and the champion is an approved one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from stillhouse.records import Candidate, GateResult, Signals, Verdict, digest
from stillhouse.store import Store

ADAPTER_BYTES = 200_000


def save(store: Store, user: str, seed: str, size: int = ADAPTER_BYTES) -> tuple[int, str]:
    """Save one version made of `seed`; returns its number and its adapter's digest."""
    shard, study = (store.blobs.put(f"{part} {seed}".encode()) for part in ("shard", "study"))
    memory = digest(f"memory {seed}".encode())
    signals = Signals(user, memory, "base", shard, study, {"seed": seed}, 1, 1, 1, (memory,))
    store.put(signals)
    adapter = random.Random(seed).randbytes(size)
    candidate = Candidate("adapter", user, "base", digest(adapter), {"r": 16}, {}, 1, (0.5,), (digest(signals),))
    recall = GateResult("recall", 1.0, 0.9, True, True, 8, (0.7, 1.0))
    verdict = Verdict(digest(candidate), True, (recall,), {}, (digest(candidate),))
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": adapter, "README.md": seed.encode()}
    parents = (digest(candidate), digest(verdict), digest(signals), memory)
    return store.save_version(candidate, verdict, files, "benchmark", parents).number, digest(adapter)


def work(home: Path, name: str, start: int, stop: int) -> None:
    """A worker: save versions `start` to `stop` and acknowledge each with one line."""
    store = Store(home)
    for i in range(start, stop):
        user = "shared" if i % 2 else f"own {name}"
        begun = time.monotonic()
        number, adapter = save(store, user, f"{name} {i} {os.getpid()}")
        took = time.monotonic() - begun
        line = {"i": i, "user": user, "number": number, "adapter": adapter, "seconds": took}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def spawn(home: Path, log: Path, name: str, start: int, stop: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--worker", name, "--home", str(home), "--span", str(start), str(stop)]
    with log.open("ab") as out:
        return subprocess.Popen(command, stdout=out)


def acknowledged(log: Path) -> list[dict[str, Any]]:
    """Whole lines only: a line that was cut off was not acknowledged."""
    text = log.read_text() if log.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def drive(home: Path, logs: Path, processes: int, versions: int, kills: int) -> tuple[int, int]:
    """Run all workers to the end, killing on the way; returns kills done and failed workers."""
    draw = random.Random(0)
    names = [str(p) for p in range(processes)]
    running = {n: spawn(home, logs / n, n, 0, versions) for n in names}
    marks = sorted(draw.uniform(0.05, 0.8) * versions for _ in range(kills))
    killed = failed = 0
    while running:
        time.sleep(0.01)
        counts = {n: len(acknowledged(logs / n)) for n in running}
        if killed < kills and sum(counts.values()) / len(counts) >= marks[killed]:
            name = draw.choice(sorted(running))
            time.sleep(draw.uniform(0, 0.1))  # anywhere inside a save
            running[name].kill()
            running[name].wait()
            killed += 1
            done = len(acknowledged(logs / name))
            (logs / name).write_text("".join(json.dumps(a) + "\n" for a in acknowledged(logs / name)))
            running[name] = spawn(home, logs / name, name, done, versions)
        for name, process in list(running.items()):
            if process.poll() is not None:
                failed += process.returncode != 0
                del running[name]
    return killed, failed


def check(home: Path, acks: list[dict[str, Any]], expected: int, failed: int) -> dict[str, bool]:
    """Each promise and whether it held."""
    store = Store(home)
    there = {(v.user, v.number): v for user in store.users() for v in store.versions(user)}
    whole = [a for a in acks if (a["user"], a["number"]) in there and _adapter(store, a) == a["adapter"]]
    unsure = store.verify()
    for line in unsure[:5]:
        print("problem:", line)
    indexed = {(u, n) for u, n in store.query("SELECT user_id, number FROM versions")}
    places = [(a["user"], a["number"]) for a in acks]
    return {
        "workers ended well": failed == 0 and len(acks) == expected,
        "acknowledged there": len(whole) == len(acks),
        "numbers unique": len(set(places)) == len(places),
        "verify clean": not unsure,
        "index complete": indexed == set(there),
        "champion approved": all((c := store.champion(u)) is not None and c.approved for u in store.users()),
    }


def _adapter(store: Store, ack: dict[str, Any]) -> str:
    return digest((store.version_dir(ack["user"], ack["number"]) / "adapter_model.safetensors").read_bytes())


def run(processes: int, versions: int, kills: int) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        home, logs = Path(folder, "home"), Path(folder, "logs")
        logs.mkdir()
        begun = time.monotonic()
        killed, failed = drive(home, logs, processes, versions, kills)
        took = time.monotonic() - begun
        acks = [a for log in sorted(logs.iterdir()) for a in acknowledged(log)]
        begun = time.monotonic()
        held = check(home, acks, processes * versions, failed)
        checking = time.monotonic() - begun
    seconds = sorted(a["seconds"] for a in acks)
    print(f"{processes} processes x {versions} versions of {ADAPTER_BYTES:,} bytes, {killed} killed with SIGKILL")
    python = f"Python {platform.python_version()}"
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, {platform.system()}, {python}")
    print(f"{'acknowledged versions':24} {len(acks):8}")
    print(f"{'wall time, s':24} {took:8.1f}")
    print(f"{'versions per second':24} {len(acks) / took:8.1f}")
    print(f"{'save, median ms':24} {1000 * seconds[len(seconds) // 2]:8.0f}")
    print(f"{'save, 95 % ms':24} {1000 * seconds[int(0.95 * (len(seconds) - 1))]:8.0f}")
    print(f"{'verify and checks, s':24} {checking:8.1f}")
    for promise, kept in held.items():
        print(f"{promise:24} {'PASS' if kept else 'FAIL':>8}")
    return all(held.values()) and killed == kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--versions", type=int, default=50, help="per process")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--span", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        work(given.home, given.worker, *given.span)
        return 0
    passed = run(given.processes, given.versions, given.kills)
    print("PASS" if passed else "FAIL")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
