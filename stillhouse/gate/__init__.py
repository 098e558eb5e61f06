"""Stage 4, candidate -> verdict: every gate measures the student by itself, and all of them must pass.

In: a `Candidate`, its digest, and a `Context` in which its adapter sits in a bank slot. Out: a `Verdict`. A file in
this folder without an underscore is a gate: it has a `MEASURE`, a frozen `Config` with a `threshold`, and
`check(candidate, config, ctx) -> GateResult`. Adding a gate is adding a file.

It does not know which gates there are, and it stores nothing. A verdict's details quote questions and answers of the
memory, so whoever forgets a user has to forget the verdicts too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from stillhouse import kinds
from stillhouse.chat import PROMPTS_VERSION
from stillhouse.config import as_dict, resolve
from stillhouse.errors import InputError, ModelError
from stillhouse.records import Candidate, GateResult, Verdict
from stillhouse.records import digest as digest_of

from ._context import Context
from ._report import Sample, report

__all__ = ["Config", "Context", "Sample", "report", "run", "settings"]


@dataclass(frozen=True)
class Config:
    """Which gates run, and with what settings: `{"drift": {"threshold": 0.05}}`. No names means every gate there is."""

    gates: tuple[str, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def run(
    candidate: Candidate,
    digest: str,
    ctx: Context,
    config: Config = Config(),
    on_gate: Callable[[str], None] | None = None,
) -> Verdict:
    """Measure `candidate` (whose digest is `digest`) with every configured gate, in the order of their names.

    `on_gate(name)` is called when a gate is done. Logits that are not numbers refuse the candidate, they do not stop
    the run. Raises `ModelError` when the adapter was made for another base, `InputError` for unknown gates or settings.
    """
    if candidate.base != ctx.model.fingerprint:
        raise ModelError(
            f"candidate {digest[:12]} was trained on base {candidate.base[:12]}, not on {ctx.model.ref} "
            f"({ctx.model.fingerprint[:12]}); load the base it was made for"
        )
    chosen = settings(config)
    results = []
    for name, setting in chosen.items():
        results.append(_check(kinds.load("gate", name), candidate, setting, ctx))
        if on_gate:
            on_gate(name)
    recorded = {
        "gates": {name: as_dict(setting) for name, setting in chosen.items()},
        "prompts": PROMPTS_VERSION,
        "texts": digest_of(list(ctx.texts)),
    }
    return Verdict(digest, all(r.passed for r in results), tuple(results), recorded, parents=(digest,))


def settings(config: Config = Config()) -> dict[str, Any]:
    """The settings of every configured gate, by name, in the order in which they run. Raises `InputError`."""
    names = sorted(config.gates or kinds.names("gate"))
    for name in config.settings:
        kinds.load("gate", name)
        if name not in names:
            raise InputError(f"gate.settings.{name}: that gate is not among the gates to run: {', '.join(names)}")
    return {
        name: resolve(kinds.load("gate", name).Config, config.settings.get(name, {}), f"gate.settings.{name}")
        for name in names
    }


def _check(kind: ModuleType, candidate: Candidate, setting: Any, ctx: Context) -> GateResult:
    try:
        result: GateResult = kind.check(candidate, setting, ctx)
    except FloatingPointError as error:
        result = kind.MEASURE.broken(setting.threshold, str(error))
    return result
