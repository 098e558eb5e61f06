"""Thresholds for one base, learned from consolidations known to be good and from sabotaged ones.

In: `Trial`s, each with what every gate measured. Out: a `Calibration`: thresholds for the interval's bad end, with
all trials, so that its ROC can be drawn again; and its file, `<home>/calibration/<fingerprint>.json`.

All gates have to pass, so a single gate need not catch every sabotage: their conjunction has to. Every threshold lies
beyond the worst honest trial by the same share of what honest trials of that gate spread: all of it, or as much less as
leaves every sabotaged trial refused by some gate at twice that distance. Where the starting threshold allows more and
costs no refusal, it stays. What should be small is never asked to be under 0, what should be large never less than 0.

It does not know how trials are made, nor what a gate measures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import StoreError
from ..records import GateResult, canonical, digest, from_mapping
from ..storage.files import make_folder, write_atomic
from ..text.prompts import PROMPTS_VERSION
from .measure import bad_end

FORMAT = 1
HONEST = ""
ACCEPT = 0.95  # of honest trials, at least
LEAST_SPREAD = 0.1  # of a value, where honest trials hardly differ


@dataclass(frozen=True)
class Measured:
    """One gate in one trial. `worst`: the bad end of its interval, None where the numbers were none; `start`: the
    threshold it had; `exact`: it counts without error and keeps that one."""

    value: float | None
    worst: float | None
    at_least: bool
    n: int
    start: float
    exact: bool = False


@dataclass(frozen=True)
class Trial:
    """One consolidation, honest or sabotaged, and what every gate that applied measured."""

    memory: str  # its number among those calibrated on: a digest of somebody's memory would outlive it
    sabotage: str  # "" for an honest one
    gates: dict[str, Measured]


class Count(NamedTuple):
    """How trials of one kind fared: how many, how many passed all gates, and which gates refused any."""

    trials: int
    approved: int
    gates: list[str]


class Scale(NamedTuple):
    """What honest trials measure at one gate, times `sign` so that more is better."""

    sign: float
    worst: float
    spread: float

    def limit(self, spreads: float) -> float:
        """The threshold so many spreads beyond the worst."""
        found = self.sign * (self.worst - spreads * self.spread)
        return max(0.0, found) if self.sign < 0 or self.worst >= 0 else found


@dataclass(frozen=True)
class Calibration:
    """Thresholds by gate for the base of fingerprint `base`, with the trials they come from."""

    base: str
    base_ref: str
    thresholds: dict[str, float]
    trials: tuple[Trial, ...]
    settings: dict[str, Any] = field(default_factory=dict)  # of capture and train
    prompts: int = PROMPTS_VERSION

    @property
    def digest(self) -> str:
        """Of everything in it: a verdict names the calibration it was decided by."""
        return digest(asdict(self))

    def values(self, gate: str, honest: bool) -> list[float]:
        """The bad ends that one gate measured over honest or over sabotaged trials."""
        found = [t.gates[gate].worst for t in self.trials if gate in t.gates and (t.sabotage == HONEST) == honest]
        return [v for v in found if v is not None]

    @property
    def sabotages(self) -> list[str]:
        """The kinds of sabotage that were tried, in order."""
        return list(dict.fromkeys(t.sabotage for t in self.trials if t.sabotage != HONEST))

    def count(self, sabotage: str = HONEST) -> Count:
        """How the trials of one kind fare under these thresholds."""
        mine = [failed_gates(t, self.thresholds) for t in self.trials if t.sabotage == sabotage]
        gates = sorted({name for names in mine for name in names})
        return Count(len(mine), sum(not names for names in mine), gates)

    def auc(self, gate: str) -> float | None:
        """The area under the gate's ROC; None where it has no trials of both kinds."""
        return auc(self.values(gate, True), self.values(gate, False), self.at_least(gate))

    def at_least(self, gate: str) -> bool:
        """Whether the gate's value must be at least its threshold."""
        return next(t.gates[gate].at_least for t in self.trials if gate in t.gates)


def measured(results: Sequence[GateResult]) -> dict[str, Measured]:
    """What a verdict's gates measured, for a `Trial`."""
    return {
        r.gate: Measured(r.value, bad_end(r), r.at_least, r.n, r.threshold, bool(r.details.get("exact")))
        for r in results
    }


def thresholds(trials: Sequence[Trial], accept: float = ACCEPT) -> dict[str, float]:
    """Thresholds by gate under which at least the share `accept` of honest trials pass all gates.

    Honest trials are left aside, the one that helps most first, only where more sabotaged trials are rejected without
    them. No honest trial: no thresholds.
    """
    kept = [t for t in trials if t.sabotage == HONEST]
    for _ in range(int((1 - accept) * len(kept) + 1e-9)):
        best = max(kept, key=lambda t: _rejected(_thresholds([k for k in kept if k is not t], trials), trials))
        fewer = [k for k in kept if k is not best]
        if _rejected(_thresholds(fewer, trials), trials) <= _rejected(_thresholds(kept, trials), trials):
            break
        kept = fewer
    return _thresholds(kept, trials)


def margin(trial: Trial, scales: Mapping[str, Scale]) -> float:
    """How many spreads beyond the worst honest trial the gate that likes `trial` least puts it; negative: none does."""
    found = [-math.inf]
    for name, scale in scales.items():
        if name in trial.gates:
            m = trial.gates[name]
            found.append(math.inf if m.worst is None else (scale.worst - scale.sign * m.worst) / scale.spread)
    return max(found)


def passes(trial: Trial, thresholds: Mapping[str, float]) -> bool:
    """Whether every gate holds at its interval's bad end; gates without a threshold are not asked."""
    return not failed_gates(trial, thresholds)


def failed_gates(trial: Trial, thresholds: Mapping[str, float]) -> list[str]:
    """The gates that refuse a trial."""
    found = [(name, m, thresholds[name]) for name, m in trial.gates.items() if name in thresholds]
    return [n for n, m, t in found if m.worst is None or (m.worst < t if m.at_least else m.worst > t)]


def roc(good: Sequence[float], bad: Sequence[float], at_least: bool) -> list[tuple[float, float]]:
    """(share of sabotaged accepted, share of honest accepted) for every threshold, strictest first."""
    sign = 1.0 if at_least else -1.0
    cuts = sorted({sign * v for v in (*good, *bad)}, reverse=True)
    shares = [tuple(sum(sign * v >= cut for v in side) / max(1, len(side)) for side in (bad, good)) for cut in cuts]
    return [(0.0, 0.0), *((b, g) for b, g in shares)]


def auc(good: Sequence[float], bad: Sequence[float], at_least: bool) -> float | None:
    """How often an honest trial measures better than a sabotaged one, ties half: the area under `roc`."""
    if not good or not bad:
        return None
    sign = 1.0 if at_least else -1.0
    wins = sum((sign * g > sign * b) + 0.5 * (g == b) for g in good for b in bad)
    return wins / (len(good) * len(bad))


def calibration_folder(home: Path, base: str) -> Path:
    """Where the trials of a base are kept until its calibration is done, and after."""
    return Path(home) / "calibration" / base


def calibration_file(home: Path, base: str) -> Path:
    """Where the calibration of a base lies."""
    return Path(home) / "calibration" / f"{base}.json"


def write_calibration(home: Path, found: Calibration) -> Path:
    """Keep it, whole or not at all; it takes the place of the base's last one."""
    path = calibration_file(home, found.base)
    make_folder(path.parent)
    write_atomic(path, canonical({"format": FORMAT, "digest": found.digest, "calibration": asdict(found)}))
    return path


def read_calibration(home: Path, base: str) -> Calibration | None:
    """The calibration of a base, or None: there is none, or it was made with other prompts than today's.

    `StoreError` if the file is damaged or from another version.
    """
    path = calibration_file(home, base)
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StoreError(
            f"{str(path)!r} is damaged ({error}); delete it, or run `stillhouse calibrate` again"
        ) from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise StoreError(f"{str(path)!r} is not a calibration of format {FORMAT}; run `stillhouse calibrate` again")
    found = _revived(path, raw)
    if found.digest != raw.get("digest") or found.base != base:
        raise StoreError(f"{str(path)!r} does not match its digest; delete it, or run `stillhouse calibrate` again")
    return found if found.prompts == PROMPTS_VERSION else None


def _revived(path: Path, raw: Mapping[str, Any]) -> Calibration:
    try:
        about = raw["calibration"]
        trials = tuple(revive_trial(t) for t in about["trials"])
        return Calibration(**{**about, "trials": trials})
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{str(path)!r} is damaged ({error}); run `stillhouse calibrate` again") from error


def revive_trial(raw: Mapping[str, Any]) -> Trial:
    """A trial from its JSON."""
    gates = {name: from_mapping(Measured, m) for name, m in raw["gates"].items()}
    return Trial(raw["memory"], raw["sabotage"], gates)


def _thresholds(honest: Sequence[Trial], trials: Sequence[Trial]) -> dict[str, float]:
    """A gate that some honest trial could not measure gets none: it keeps its starting threshold."""
    if not honest:
        return {}
    shared = sorted(set.intersection(*(set(t.gates) for t in honest)))
    like = honest[0].gates
    exact = {name: like[name].start for name in shared if like[name].exact}
    scales = {name: scale for name in shared if name not in exact and (scale := _scale(name, honest)) is not None}
    bad = [t for t in trials if t.sabotage != HONEST and passes(t, exact)]
    margins = [m for t in bad if (m := margin(t, scales)) > 0]  # where none is, no gate tells, however strict
    spreads = min([1.0, *(m / 2 for m in margins)])
    found = exact | {name: scale.limit(spreads) for name, scale in scales.items()}
    for name, scale in scales.items():
        eased = found | {name: like[name].start}
        more = scale.sign * like[name].start < scale.sign * found[name]
        if more and _rejected(eased, trials) == _rejected(found, trials):
            found = eased
    return found


def _scale(name: str, honest: Sequence[Trial]) -> Scale | None:
    mine = [t.gates[name] for t in honest]
    values = [m.worst for m in mine if m.worst is not None]
    if len(values) < len(mine):
        return None
    sign = 1.0 if mine[0].at_least else -1.0
    worst, best = min(sign * v for v in values), max(sign * v for v in values)
    return Scale(sign, worst, max(best - worst, LEAST_SPREAD * abs(worst), 1e-6))


def _rejected(thresholds: Mapping[str, float], trials: Sequence[Trial]) -> int:
    return sum(not passes(t, thresholds) for t in trials if t.sabotage != HONEST)
