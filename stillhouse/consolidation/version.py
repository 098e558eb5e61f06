"""Stage 4: a candidate with its verdict becomes a version of the user.

In: a candidate, its verdict, and the context it was judged in. Out: a `Version` record with its folder, and what a
finished run gives back to whoever asked for it (`Consolidation`).

It does not know how candidates are made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import gating, models
from ..config import as_dict
from ..errors import StoreError
from ..gating import AnswerComparison, report
from ..records import Candidate, Signals, Verdict, Version, digest, from_mapping
from ..store import Store
from ..text.prompts import with_memory, without_memory
from .capture import load_study
from .pipeline import Pipeline
from .result import Consolidation, Try, model_card, samples

REPORT = "gate_report.json"


def existing(store: Store, candidate: Candidate, verdict: Verdict) -> Version | None:
    """The version this candidate and verdict have. An approved one becomes the champion again."""
    user = candidate.user
    for version in store.versions(user):
        if (version.candidate, version.verdict) == (digest(candidate), digest(verdict)):
            champion = store.champion(user)
            if version.approved and (champion is None or champion.number != version.number):
                store.promote(user, version.number, "consolidated again")
            return version
    return None


def save(
    pipeline: Pipeline, memory: str, signals: Signals, candidate: Candidate, verdict: Verdict, ctx: gating.Context,
    before: Sequence[Try] = (),
) -> Version:  # fmt: skip
    """A new version with its report. `before`: what was tried for this user until now."""
    store, compared = pipeline.store, samples(ctx)
    tries = [as_dict(one) for one in before]
    if tries:
        failed = [r.gate for r in verdict.results if not r.passed]
        tries.append(as_dict(Try(pipeline.note, "", {}, 0, verdict.passed, tuple(failed))))
    page = report(
        verdict, candidate, ctx.study, memory, compared, candidate.losses, _facts(pipeline, signals, candidate, ctx),
        calibration_of(store, candidate.base, verdict), tries,
    )  # fmt: skip
    judged = as_dict(verdict) | {"samples": [as_dict(s) for s in compared], "tries": tries}
    files = {
        "adapter_config.json": json.dumps(candidate.adapter_config, indent=2, sort_keys=True).encode(),
        "adapter_model.safetensors": store.blobs.get(candidate.adapter),
        REPORT: json.dumps(judged, indent=1, ensure_ascii=False).encode(),
        "gate_report.html": page.encode(),
        "README.md": model_card(candidate, verdict).encode(),
    }
    parents = (digest(candidate), digest(verdict), digest(signals), signals.memory)
    return store.save_version(candidate, verdict, files, models.recorded(pipeline.model), parents)


def result(pipeline: Pipeline, version: Version, signals: Signals, seconds: Mapping[str, float]) -> Consolidation:
    """What came of one user's memory, read from the store."""
    store, user = pipeline.store, version.user
    compared, _ = read_report(store, version)
    return Consolidation(
        user, version, store.version_dir(user, version.number), store.get(Verdict, version.verdict),
        load_study(store, signals), compared, signals.memory_tokens,
        _tokens_saved(pipeline, store.blobs.get(signals.memory).decode()), dict(seconds),
    )  # fmt: skip


def read_report(store: Store, version: Version) -> tuple[tuple[AnswerComparison, ...], list[dict[str, Any]]]:
    """The answers side by side in a version's report, and the tries on the way to it. `StoreError`: it is damaged."""
    file = store.version_dir(version.user, version.number) / REPORT
    try:
        written = json.loads(file.read_bytes())
        return tuple(from_mapping(AnswerComparison, s) for s in written["samples"]), written.get("tries", [])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"the report {str(file)!r} is damaged ({type(error).__name__}: {error}); restore it, or forget the user "
            "and consolidate again"
        ) from error


def base_title(ref: str) -> str:
    """How a base is called in a report: the hub id, or the folder's own name."""
    return Path(ref).name if Path(ref).is_absolute() else ref


def _facts(pipeline: Pipeline, signals: Signals, candidate: Candidate, ctx: gating.Context) -> dict[str, str]:
    """The head of a report."""
    model, best = pipeline.model, candidate.best
    return {
        "user": candidate.user, "base": f"{base_title(model.ref)} ({model.fingerprint[:12]})",
        "memory": f"{signals.memory_tokens} tokens, {len(ctx.study.statements)} statements",
        "signals": f"{signals.examples} examples, {signals.positions} positions ({digest(signals)[:12]})",
        "training": f"{candidate.steps} steps, rank {candidate.config['rank']}"
        + (f"; {best.line(candidate.steps)}" if best else ""),
    }  # fmt: skip


def calibration_of(store: Store, base: str, verdict: Verdict) -> gating.Calibration | None:
    """The calibration of `base` (a fingerprint), where this verdict was taken with it: for the report's scales."""
    current = gating.read_calibration(store.home, base)
    return current if current is not None and current.digest == verdict.config.get("calibrated_by") else None


def _tokens_saved(pipeline: Pipeline, memory: str) -> int:
    """Prompt tokens of a request with the memory in its context, minus those of one without."""
    ids = pipeline.model.chat_ids
    return len(ids(with_memory(memory, "?"))) - len(ids(without_memory("?")))
