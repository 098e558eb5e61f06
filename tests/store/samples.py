"""Versions made of a seed: small, real, all of a piece."""

from __future__ import annotations

from stillhouse.records import Candidate, GateResult, Signals, Verdict, Version, digest
from stillhouse.store import Store


def make(store: Store, user: str, seed: str, passed: bool = True) -> tuple[Candidate, Verdict, dict[str, bytes]]:
    """A stored Signals record, a candidate and a verdict made of it, and the files of the version."""
    memory = store.blobs.put(f"the memory {seed} of {user}".encode())
    shard, study = (store.blobs.put(f"{part} {seed} {user}".encode()) for part in ("shard", "study"))
    signals = Signals(user, memory, "base", shard, study, {"k": 8}, 12, 34, 56, (memory,))
    store.put(signals)
    adapter = f"adapter {seed} {user}".encode() * 20
    candidate = Candidate(
        "adapter", user, "base", digest(adapter), {"r": 16}, {"seed": seed}, 3, (1.0, 0.25), (digest(signals),)
    )
    recall = GateResult("recall", 1.0 if passed else 0.1, 0.9, True, passed, 10, (0.05, 1.0), details={"asked": [1, 2]})
    verdict = Verdict(digest(candidate), passed, (recall,), {"n": 1}, (digest(candidate),))
    files = {
        "adapter_config.json": b"{}",
        "adapter_model.safetensors": adapter,
        "README.md": f"card of {user}".encode(),
    }
    return candidate, verdict, files


def save(store: Store, user: str = "alice", seed: str = "0", passed: bool = True) -> Version:
    """Save one version made of `seed`."""
    candidate, verdict, files = make(store, user, seed, passed)
    signals = store.get(Signals, candidate.parents[0])
    parents = (digest(candidate), digest(verdict), digest(signals), signals.memory)
    return store.save_version(candidate, verdict, files, "tiny", parents)
