"""`kill -9` under load, again and again: what was acknowledged is there, and work goes on. Exit code 1 on a miss.

    python benchmarks/serve_kill.py [--kills 20] [--clients 6] [--seconds 3] [--home DIR] [--quick]

Clients talk to a real server: exchanges, feedback on them, memories. Beside them another process's hand saves versions
into the same store. At a random moment the server is killed; so are its workers, by the end of their stdin. It is
started again on the same home, which has to take less than 10 s, and the next round begins. In the first round a
consolidation is asked for: through all the kills it has to come to its end. Afterwards the journal and the store are
read: every response, feedback and memory that was acknowledged is there once, with its words; every version is there
with its bytes, and is its user's champion.

With `--home DIR` the books are kept there after every round: run again, it goes on with the next kill. A minute or two
for three kills on an idle machine, five for twenty.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import Figure, machine, say, table
from benchmarks._serving import Server, adapters, serving, stock
from stillhouse import models
from stillhouse.export import peft
from stillhouse.models import Model
from stillhouse.serve.engine.adapters import Adapter
from stillhouse.serve.log.journal import Journal
from stillhouse.serve.log.journal_records import Exchange, Feedback, Memory
from stillhouse.storage.files import write_atomic
from stillhouse.store import Store

JOB_MEMORY = "My dog is called Biscuit.\nMy sister lives in Oslo.\nI drive a green van.\n"
JOB_SETTINGS = ("train.steps=20", "capture.wordings=3", "capture.rounds=1")  # its end counts, not what it learns
LAZY = ("--set=policy.min_new_tokens=1000000", "--set=policy.min_session_count=1000000")  # no other jobs
STALLED = 600.0  # seconds without any progress of the job: then it does not come to its end
BOOKS = "kills.json"


@dataclass
class Acknowledged:
    """What the server said it has: of each id, the words."""

    exchanges: dict[str, str] = field(default_factory=dict)
    feedback: dict[str, str] = field(default_factory=dict)
    memories: dict[str, str] = field(default_factory=dict)
    refused: Counter[int] = field(default_factory=Counter)
    versions: list[tuple[str, int]] = field(default_factory=list)
    back: list[float] = field(default_factory=list)  # seconds of every start
    cpu: list[float] = field(default_factory=list)  # the same, of CPU
    job: str = ""

    @classmethod
    def read(cls, home: Path) -> Acknowledged:
        """The books of an earlier run, or new ones."""
        if not (home / BOOKS).exists():
            return cls()
        known = json.loads((home / BOOKS).read_text(encoding="utf-8"))
        refused = Counter({int(status): count for status, count in known.pop("refused").items()})
        return cls(**{**known, "versions": [(user, number) for user, number in known["versions"]], "refused": refused})

    def write(self, home: Path) -> None:
        """For the next run, if this one is stopped."""
        write_atomic(home / BOOKS, json.dumps(vars(self)).encode())


def talk(server: Server, name: str, said: Acknowledged, stop: threading.Event) -> None:
    """Ask, judge the answer, remember; until the server is gone."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        while not stop.is_set():
            try:
                once(client, name, said)
            except httpx.HTTPStatusError as error:
                said.refused[error.response.status_code] += 1
            except httpx.HTTPError:  # killed: what was on its way is not acknowledged
                return


def once(client: httpx.Client, name: str, said: Acknowledged) -> None:
    """One exchange, one feedback on it, one memory."""
    word = f"{random.getrandbits(32):08x}"
    messages = [{"role": "user", "content": f"What is {word}?"}]
    body = {"model": "tiny", "messages": messages, "max_tokens": 6, "user": name, "session": word}
    reply = client.post("/v1/chat/completions", json=body).raise_for_status().json()
    said.exchanges[reply["id"]] = word
    judged = {"response_id": reply["id"], "score": 1.0, "comment": word}
    said.feedback[client.post("/v1/feedback", json=judged).raise_for_status().json()["id"]] = word
    memory = {"text": f"My favourite word is {word}."}
    said.memories[client.post(f"/v1/users/{name}/memory", json=memory).raise_for_status().json()["id"]] = word


@dataclass
class Saver:
    """Saves versions into the store while servers come and go."""

    store: Store
    model: Model
    adapter: Adapter
    saved: list[tuple[str, int]]

    def run(self, name: str, stop: threading.Event) -> None:
        """About three a second, each of a user of its own."""
        count = 0
        while not stop.wait(0.3):
            user = f"{name}-{count}"
            self.saved.append((user, stock(self.store, self.model, user, self.adapter)))
            count += 1

    def lost(self) -> list[str]:
        """Users whose version is gone, has other bytes, or is not the champion."""
        content = peft.to_bytes(self.adapter.tensors)
        return [user for user, number in self.saved if not self._whole(user, number, content)]

    def _whole(self, user: str, number: int, content: bytes) -> bool:
        champion, folder = self.store.champion(user), self.store.version_dir(user, number)
        return champion is not None and champion.number == number and (folder / peft.WEIGHTS).read_bytes() == content


def one_round(home: Path, name: str, args: argparse.Namespace, said: Acknowledged, saver: Saver) -> None:
    """Start, load, kill."""
    stop = threading.Event()
    with serving(home, "--workers", "1", *LAZY) as server:
        said.back.append(server.seconds)
        said.cpu.append(server.cpu)
        if not said.job:
            said.job = consolidate(server)
        threads = [threading.Thread(target=talk, args=(server, f"{name}-{i}", said, stop)) for i in range(args.clients)]
        threads.append(threading.Thread(target=saver.run, args=(name, stop)))
        for thread in threads:
            thread.start()
        time.sleep(args.seconds * (0.5 + random.random()))
        server.kill()
        stop.set()
        for thread in threads:
            thread.join()
    said.write(home)


def consolidate(server: Server) -> str:
    """Ask for the job that has to come through; its id."""
    with server.client() as client:
        client.post("/v1/users/worker/memory", json={"text": JOB_MEMORY}).raise_for_status()
        body = {"settings": list(JOB_SETTINGS)}
        return str(client.post("/v1/users/worker/consolidate", json=body).raise_for_status().json()["id"])


def job_ends(home: Path, said: Acknowledged) -> str:
    """Start once more, undisturbed; the state of the job when it has ended, or when nothing moves any more."""
    with serving(home, "--workers", "1", *LAZY) as server, server.client() as client:
        said.back.append(server.seconds)
        said.cpu.append(server.cpu)
        moved, before = time.monotonic(), ""
        while time.monotonic() - moved < STALLED:
            job = client.get(f"/v1/jobs/{said.job}").raise_for_status().json()
            if job["state"] not in ("queued", "running"):
                return str(job["state"])
            now = f"{job['state']} {job['progress'].get('stage', '')} {job['progress'].get('done', '')}"
            if now != before:
                moved, before = time.monotonic(), now
                say(f"the job: {now}")
            time.sleep(1.0)
    return f"stalled, {before}"


def lost(home: Path, said: Acknowledged) -> dict[str, list[str]]:
    """Acknowledged records that are not in the journal exactly once with their words."""
    journal = Journal(home)
    found: dict[str, list[str]] = {}
    for record in journal.records():
        if isinstance(record, Exchange):
            found.setdefault(record.id, []).append(record.turns[-1].content)
        elif isinstance(record, Feedback):
            found.setdefault(record.id, []).append(record.comment)
        elif isinstance(record, Memory):
            found.setdefault(record.id, []).append(record.text)
    journal.close()
    kinds = {"exchanges": said.exchanges, "feedback": said.feedback, "memories": said.memories}
    return {
        kind: [i for i, word in known.items() if len(found.get(i, [])) != 1 or word not in found[i][0]]
        for kind, known in kinds.items()
    }


def figures(home: Path, args: argparse.Namespace) -> list[Figure]:
    """All rounds that are left, then the books."""
    model, said = models.load(), Acknowledged.read(home)
    (adapter,) = adapters(model, 1, 4)
    saver = Saver(Store(home), model, adapter, said.versions)
    for number in range(len(said.back), args.kills):
        one_round(home, f"round{number}", args, said, saver)
        say(f"kill {number + 1}/{args.kills}: {len(said.exchanges)} exchanges, back in {said.back[-1]:.1f} s")
    say("waiting for the job")
    state = job_ends(home, said)
    missing = lost(home, said) | {"versions": saver.lost()}
    counts = {kind: len(getattr(said, kind)) for kind in missing}
    found = [
        Figure(f"{kind} lost", float(len(ids)), "", 0.0, at_least=False, note=f"of {counts[kind]} acknowledged")
        for kind, ids in missing.items()
    ]
    return [
        *found,
        Figure("requests refused with an error", float(said.refused.total()), note=str(dict(said.refused) or "")),
        Figure(
            "slowest start after a kill",
            max(said.back[1:]),
            "s",
            10.0,
            at_least=False,
            note=f"at most {max(said.cpu):.1f} s of CPU",
        ),
        Figure("the job came to its end", float(state in ("succeeded", "rejected")), "%", 1.0, note=state),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("kills", 20), ("clients", 6)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load before a kill, on average")
    parser.add_argument("--home", type=Path, help="keep everything there, and go on from there")
    parser.add_argument("--quick", action="store_true", help="2 kills")
    args = parser.parse_args()
    args.kills = 2 if args.quick else args.kills
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        return table(figures(args.home or Path(folder, "home"), args))


if __name__ == "__main__":
    sys.exit(main())
