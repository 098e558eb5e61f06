"""A candidate by the name a user gives it, with everything that gates and reports need about it.

In: `user`, `user@3`, or the beginning of a digest of a version, a verdict or a candidate. Out: the records. What
takes long to import is imported when it is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, NotFound
from .shell import pick_version

_VERSION = re.compile(r"(?P<user>.+)@v?(?P<number>[1-9][0-9]*)")
_DIGEST = re.compile(r"[0-9a-f]{6,64}")


@dataclass(frozen=True)
class Judged:
    """One candidate with what the store knows of it."""

    digest: str
    """Of the candidate."""
    candidate: Any
    signals: Any
    """What it was trained on."""
    version: Any = None
    """None where it was never saved."""
    verdict: Any = None
    """None where no gate has judged it yet."""

    @property
    def base_ref(self) -> str:
        """What it was made with. `models.found_again` says where that is here."""
        recorded = self.version.base_ref if self.version else self.candidate.adapter_config["base_model_name_or_path"]
        return str(recorded)


def find(store: Any, name: str) -> Judged:
    """The candidate of that name. `InputError` and `NotFound` say which names there are."""
    if match := _VERSION.fullmatch(name):
        return _of(store, pick_version(store, match["user"], int(match["number"])))
    if name in store.users():
        return _of(store, pick_version(store, name, None))
    if not _DIGEST.fullmatch(name):
        known = ", ".join(store.users()) or "none"
        raise InputError(f"{name!r} is no user, no user@version and no digest; known users: {known}")
    _, _, record = store.find(name)
    return _of(store, record)


def _of(store: Any, record: Any) -> Judged:
    from .. import records
    from ..records import Candidate, Signals, Verdict, Version

    version = record if isinstance(record, Version) else None
    verdict = record if isinstance(record, Verdict) else store.get(Verdict, version.verdict) if version else None
    if isinstance(record, Candidate):
        chosen = records.digest(record)
    elif verdict is not None:
        chosen = verdict.candidate
    else:
        raise InputError(f"a {type(record).__name__.lower()} has no verdict; name a version, a candidate or a verdict")
    candidate = store.get(Candidate, chosen)
    if candidate.kind != "adapter":
        raise InputError(f"candidate {chosen[:12]} is a {candidate.kind!r} student; the gates here judge adapters")
    if version is None:
        version = next((v for v in store.versions(candidate.user) if v.candidate == chosen), None)
    if verdict is None and version is not None:
        verdict = store.get(Verdict, version.verdict)
    elif verdict is None:
        verdict = next((v for _, v in store.records(Verdict) if v.candidate == chosen), None)
    return Judged(chosen, candidate, store.get(Signals, candidate.parents[0]), version, verdict)


@contextmanager
def in_context(store: Any, model: Any, judged: Judged, suite: Any = None) -> Iterator[Any]:
    """The gate's context with the candidate in a bank, beside other users' champions on the same base.

    Inside, torch has as many threads as the model is fastest with.
    """
    from .. import consolidation
    from ..compute.threads import fastest_threads

    others = consolidation.neighbours(store, judged.candidate.base, judged.candidate.user)
    candidate, signals = judged.candidate, judged.signals
    with fastest_threads(model), consolidation.in_context(store, model, candidate, signals, others, suite) as ctx:
        yield ctx


def page(store: Any, judged: Judged, verdict: Any, samples: Any = None) -> str:
    """The HTML report of a verdict, from what the store holds."""
    from .. import consolidation, gating
    from ..records import digest

    version, signals, candidate = judged.version, judged.signals, judged.candidate
    tries: Any = []
    if version is not None and version.verdict == digest(verdict):
        written, tries = consolidation.read_report(store, version)
        samples = written if samples is None else samples
    try:
        text = store.blobs.get(signals.memory).decode()
    except NotFound:
        text = ""
    study = consolidation.load_study(store, signals)
    facts = {
        "user": candidate.user, "version": f"v{version.number}" if version else "none",
        "base": f"{consolidation.base_title(judged.base_ref)} ({candidate.base[:12]})",
        "memory": f"{signals.memory_tokens} tokens, {len(study.statements)} statements",
        "signals": f"{signals.examples} examples, {signals.positions} positions",
        "training": f"{candidate.steps} steps, rank {candidate.config['rank']}",
    }  # fmt: skip
    calibration = consolidation.calibration_of(store, candidate.base, verdict)
    return gating.report(verdict, candidate, study, text, samples or (), candidate.losses, facts, calibration, tries)
