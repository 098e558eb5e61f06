"""One run over all gates: it resolves the settings, asks every gate, decides every result. The verdict is all of them.

In: a candidate, its digest, a `Context`, a `Config`. Out: a `Verdict`, which passes where every gate does. It does not
know which gates there are, and it stores nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import kinds
from ..config import as_dict, resolve
from ..errors import InputError, ModelError
from ..records import Candidate, GateResult, Verdict, digest
from ..text.prompts import PROMPTS_VERSION
from .context import Context
from .measure import DoesNotApply, decided
from .thresholds import read_calibration


@dataclass(frozen=True)
class Config:
    """Which gates run, and with what settings."""

    gates: tuple[str, ...] = ()
    """Names of the gates to run; none means every gate there is, the setting we stand behind."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings by gate, such as `{"drift": {"threshold": 0.05}}`; each gate's `Config` has the names. A threshold given
    here goes before a calibrated one and is decided on the value."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Calibrated thresholds by gate, in the gate's unit; they are decided at the interval's bad end. None: the starting
    thresholds hold."""
    calibration: str = ""
    """Digest (SHA-256, hex) of the `Calibration` that `thresholds` come from; empty where there is none."""


def calibrated(home: Path, base: str, config: Config = Config()) -> Config:
    """`config` with the thresholds that were calibrated for the base of this fingerprint, where `home` has any."""
    calibration = read_calibration(home, base)
    if calibration is None or config.calibration:
        return config
    return replace(config, thresholds=calibration.thresholds, calibration=calibration.digest)


def run(
    candidate: Candidate,
    candidate_digest: str,
    ctx: Context,
    config: Config = Config(),
    on_gate: Callable[[str], None] | None = None,
) -> Verdict:
    """Measure a candidate with every configured gate, in the order of their names.

    `on_gate(name)` is called when a gate is done. Logits that are not numbers do not stop the run: the candidate is
    refused. A gate that does not apply is left out, and `Verdict.config["left_out"]` says why. A verdict without any
    result does not pass. Raises `ModelError` when the adapter was made for another base, `InputError` for unknown gates
    or settings, and for a suite that was trained on.
    """
    if candidate.base != ctx.model.fingerprint:
        raise ModelError(
            f"candidate {candidate_digest[:12]} was trained on base {candidate.base[:12]}, not on {ctx.model.ref} "
            f"({ctx.model.fingerprint[:12]}); load the base it was made for"
        )
    chosen = settings(config)
    results, left_out = [], {}
    with ctx.runner.bulk():
        for name, setting in chosen.items():
            result = _check(kinds.load("gate", name), candidate, setting, ctx)
            if isinstance(result, DoesNotApply):
                left_out[name] = result.reason
            else:
                results.append(decided(result, _is_calibrated(config, name)))
            if on_gate:
                on_gate(name)
    recorded = {
        "gates": {name: as_dict(setting) for name, setting in chosen.items()},
        "left_out": left_out,
        "calibrated_by": config.calibration,
        "prompts": PROMPTS_VERSION,
        "texts": digest(list(ctx.texts)),
        "suite_digest": ctx.suite.digest if ctx.suite else "",
        "corpus": ctx.corpus.digest if ctx.corpus else "",
        "trace": ctx.trace.name if ctx.trace else "",
    }
    passed = bool(results) and all(r.passed for r in results)
    return Verdict(candidate_digest, passed, tuple(results), recorded, parents=(candidate_digest,))


def settings(config: Config = Config()) -> dict[str, Any]:
    """The settings of every configured gate, by name, in the order in which the gates run.

    Raises `InputError` for a gate or a setting that does not exist, and for settings of a gate that is not to run.
    """
    names = sorted(config.gates or kinds.names("gate"))
    for name in config.settings:
        kinds.load("gate", name)
        if name not in names:
            raise InputError(f"gate.settings.{name}: that gate is not among the gates to run: {', '.join(names)}")
    return {name: _setting(name, config) for name in names}


def _setting(name: str, config: Config) -> Any:
    values = dict(config.settings.get(name, {}))
    if _is_calibrated(config, name):
        values["threshold"] = config.thresholds[name]
    return resolve(kinds.load("gate", name).Config, values, f"gate.settings.{name}")


def _is_calibrated(config: Config, name: str) -> bool:
    return name in config.thresholds and "threshold" not in config.settings.get(name, {})


def _check(kind: ModuleType, candidate: Candidate, setting: Any, ctx: Context) -> GateResult | DoesNotApply:
    try:
        result: GateResult | DoesNotApply = kind.check(candidate, setting, ctx)
    except FloatingPointError as error:
        result = kind.MEASURE.broken(setting.threshold, str(error))
    return result
