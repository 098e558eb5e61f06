"""Thresholds for one base, learned from consolidations known to be good and from sabotaged ones.

In: `CalibrationTrial`s, each with the measurement of every gate. Out: a `Calibration`, which has a threshold for each
gate, to be compared with the bad end of its interval. It keeps all trials, so that a ROC can be drawn again. Its file
is `<home>/calibration/<fingerprint>.json`.

All gates have to pass. So a single gate need not refuse every sabotaged trial; some gate has to refuse each of them.
- A gate's spread is the difference of its best and its worst honest trial.
- Each threshold is the worst honest trial, made easier by a share of the spread. All gates have the same share.
- The share is 1. It is less where a sabotaged trial needs it: each is to be refused by some gate even at twice the
  share.
- A starting threshold that is easier stays, if as many sabotaged trials are refused with it.
- A threshold of what should be small is never under 0. A threshold of what should be large is not moved under 0.

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
class GateMeasurement:
    """What one gate measured in one trial."""

    value: float | None  # None where nothing could be measured
    worst: float | None  # the bad end of its interval; None with `value`
    at_least: bool  # the value has to be at least its threshold, not at most
    n: int  # how many things were measured
    start: float  # the threshold it had before the calibration
    exact: bool = False  # the gate counts without error, and keeps that threshold


@dataclass(frozen=True)
class CalibrationTrial:
    """One consolidation, honest or sabotaged, with the measurement of every gate that applied to it."""

    memory: str  # its number among those calibrated on: a digest of somebody's memory would outlive it
    sabotage: str  # "" for an honest one
    gates: dict[str, GateMeasurement]


class TrialCounts(NamedTuple):
    """The trials of one kind of sabotage, or the honest ones, under a calibration's thresholds."""

    trials: int
    approved: int  # passed all gates
    gates: list[str]  # those that refused any


class HonestRange(NamedTuple):
    """What honest trials measure at one gate. Values are multiplied by `sign`, so that more is better."""

    sign: float
    worst: float
    spread: float

    def limit(self, spreads: float) -> float:
        """The threshold that lies `spreads` spreads beyond the worst honest trial, in the gate's unit."""
        threshold = self.sign * (self.worst - spreads * self.spread)
        return max(0.0, threshold) if self.sign < 0 or self.worst >= 0 else threshold


@dataclass(frozen=True)
class Calibration:
    """Thresholds by gate for the base of fingerprint `base`, with the trials they come from."""

    base: str
    base_ref: str
    thresholds: dict[str, float]
    trials: tuple[CalibrationTrial, ...]
    settings: dict[str, Any] = field(default_factory=dict)  # of capture and train
    prompts: int = PROMPTS_VERSION

    @property
    def digest(self) -> str:
        """Of everything in it: a verdict names the calibration it was decided by."""
        return digest(asdict(self))

    def values(self, gate: str, honest: bool) -> list[float]:
        """The bad ends of one gate's intervals, over honest or over sabotaged trials."""
        worst = [t.gates[gate].worst for t in self.trials if gate in t.gates and (t.sabotage == HONEST) == honest]
        return [value for value in worst if value is not None]

    @property
    def sabotages(self) -> list[str]:
        """The kinds of sabotage that were tried, in order."""
        return list(dict.fromkeys(t.sabotage for t in self.trials if t.sabotage != HONEST))

    def count(self, sabotage: str = HONEST) -> TrialCounts:
        """Counts the trials of one kind of sabotage, and which of them these thresholds approve."""
        refusals = [failed_gates(t, self.thresholds) for t in self.trials if t.sabotage == sabotage]
        gates = sorted({name for names in refusals for name in names})
        return TrialCounts(len(refusals), sum(not names for names in refusals), gates)

    def auc(self, gate: str) -> float | None:
        """The area under the gate's ROC; None where it has no trials of both kinds."""
        return auc(self.values(gate, True), self.values(gate, False), self.at_least(gate))

    def at_least(self, gate: str) -> bool:
        """Whether the gate's value must be at least its threshold."""
        return next(t.gates[gate].at_least for t in self.trials if gate in t.gates)


def measurements(results: Sequence[GateResult]) -> dict[str, GateMeasurement]:
    """The measurements of a verdict's gates, by gate, as a `CalibrationTrial` keeps them."""
    return {
        r.gate: GateMeasurement(r.value, bad_end(r), r.at_least, r.n, r.threshold, bool(r.details.get("exact")))
        for r in results
    }


def thresholds(trials: Sequence[CalibrationTrial], accept: float = ACCEPT) -> dict[str, float]:
    """Thresholds by gate. At least the share `accept` of the honest trials passes all gates under them.

    An honest trial is left aside where more sabotaged trials are rejected without it; the one that helps most goes
    first. Without honest trials there are no thresholds.
    """
    kept = [t for t in trials if t.sabotage == HONEST]
    for _ in range(int((1 - accept) * len(kept) + 1e-9)):
        best = max(kept, key=lambda t: _rejected(_accepting([k for k in kept if k is not t], trials), trials))
        fewer = [k for k in kept if k is not best]
        if _rejected(_accepting(fewer, trials), trials) <= _rejected(_accepting(kept, trials), trials):
            break
        kept = fewer
    return _accepting(kept, trials)


def margin(trial: CalibrationTrial, ranges: Mapping[str, HonestRange]) -> float:
    """How far a trial lies beyond the worst honest one, in spreads, at the gate where that is farthest.

    It is negative where no gate measures the trial as worse than every honest one.
    """
    distances = [-math.inf]
    for name, honest in ranges.items():
        if name in trial.gates:
            worst = trial.gates[name].worst
            distances.append(math.inf if worst is None else (honest.worst - honest.sign * worst) / honest.spread)
    return max(distances)


def passes(trial: CalibrationTrial, thresholds: Mapping[str, float]) -> bool:
    """Whether every gate holds at its interval's bad end. Gates without a threshold do not count."""
    return not failed_gates(trial, thresholds)


def failed_gates(trial: CalibrationTrial, thresholds: Mapping[str, float]) -> list[str]:
    """The names of the gates that refuse a trial."""
    limited = [(name, m, thresholds[name]) for name, m in trial.gates.items() if name in thresholds]
    return [n for n, m, t in limited if m.worst is None or (m.worst < t if m.at_least else m.worst > t)]


def roc(good: Sequence[float], bad: Sequence[float], at_least: bool) -> list[tuple[float, float]]:
    """The ROC: (share of sabotaged accepted, share of honest accepted) for every threshold, strictest first."""
    sign = 1.0 if at_least else -1.0
    cuts = sorted({sign * v for v in (*good, *bad)}, reverse=True)
    shares = [tuple(sum(sign * v >= cut for v in side) / max(1, len(side)) for side in (bad, good)) for cut in cuts]
    return [(0.0, 0.0), *((b, g) for b, g in shares)]


def auc(good: Sequence[float], bad: Sequence[float], at_least: bool) -> float | None:
    """The area under `roc`: how often an honest trial measures better than a sabotaged one. Ties count half."""
    if not good or not bad:
        return None
    sign = 1.0 if at_least else -1.0
    wins = sum((sign * g > sign * b) + 0.5 * (g == b) for g in good for b in bad)
    return wins / (len(good) * len(bad))


def calibration_folder(home: Path, base: str) -> Path:
    """The folder that keeps the trials of a base, while its calibration runs and after."""
    return Path(home) / "calibration" / base


def calibration_file(home: Path, base: str) -> Path:
    """The path of a base's calibration."""
    return Path(home) / "calibration" / f"{base}.json"


def write_calibration(home: Path, calibration: Calibration) -> Path:
    """Writes a calibration, whole or not at all, in the place of the base's last one. Returns its path."""
    path = calibration_file(home, calibration.base)
    make_folder(path.parent)
    content = {"format": FORMAT, "digest": calibration.digest, "calibration": asdict(calibration)}
    write_atomic(path, canonical(content))
    return path


def read_calibration(home: Path, base: str) -> Calibration | None:
    """The calibration of a base. None where there is none, or where it was made with other prompts than today's.

    Raises `StoreError` if the file is damaged or from another version.
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
    calibration = _revived(path, raw)
    if calibration.digest != raw.get("digest") or calibration.base != base:
        raise StoreError(f"{str(path)!r} does not match its digest; delete it, or run `stillhouse calibrate` again")
    return calibration if calibration.prompts == PROMPTS_VERSION else None


def _revived(path: Path, raw: Mapping[str, Any]) -> Calibration:
    try:
        about = raw["calibration"]
        trials = tuple(revive_trial(t) for t in about["trials"])
        return Calibration(**{**about, "trials": trials})
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{str(path)!r} is damaged ({error}); run `stillhouse calibrate` again") from error


def revive_trial(raw: Mapping[str, Any]) -> CalibrationTrial:
    """A trial from its JSON."""
    gates = {name: from_mapping(GateMeasurement, m) for name, m in raw["gates"].items()}
    return CalibrationTrial(raw["memory"], raw["sabotage"], gates)


def _accepting(honest: Sequence[CalibrationTrial], trials: Sequence[CalibrationTrial]) -> dict[str, float]:
    """Thresholds that accept all of `honest`. A gate that some honest trial could not measure has none here, and so
    keeps its starting threshold."""
    if not honest:
        return {}
    shared = sorted(set.intersection(*(set(t.gates) for t in honest)))
    like = honest[0].gates
    exact = {name: like[name].start for name in shared if like[name].exact}
    ranges = {name: span for name in shared if name not in exact and (span := _honest_range(name, honest))}
    bad = [t for t in trials if t.sabotage != HONEST and passes(t, exact)]
    margins = [m for t in bad if (m := margin(t, ranges)) > 0]  # where none is, no gate tells, however strict
    spreads = min([1.0, *(m / 2 for m in margins)])
    limits = exact | {name: honest_range.limit(spreads) for name, honest_range in ranges.items()}
    for name, honest_range in ranges.items():
        eased = limits | {name: like[name].start}
        easier = honest_range.sign * like[name].start < honest_range.sign * limits[name]
        if easier and _rejected(eased, trials) == _rejected(limits, trials):
            limits = eased
    return limits


def _honest_range(name: str, honest: Sequence[CalibrationTrial]) -> HonestRange | None:
    """None where some honest trial could not measure the gate."""
    measured = [t.gates[name] for t in honest]
    values = [m.worst for m in measured if m.worst is not None]
    if len(values) < len(measured):
        return None
    sign = 1.0 if measured[0].at_least else -1.0
    worst, best = min(sign * v for v in values), max(sign * v for v in values)
    return HonestRange(sign, worst, max(best - worst, LEAST_SPREAD * abs(worst), 1e-6))


def _rejected(thresholds: Mapping[str, float], trials: Sequence[CalibrationTrial]) -> int:
    return sum(not passes(t, thresholds) for t in trials if t.sabotage != HONEST)
