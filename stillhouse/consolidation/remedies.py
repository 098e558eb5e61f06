"""What to try when gates refuse a candidate: five remedies, in this order. Each makes a new candidate.

In: what came of some users' memories, the settings it came with, and a function that does it again with other
settings. Out: the first approved candidate of each user, or else the best one, with all that was tried. A remedy is
tried only where a gate that failed names it. Changes add up as long as they do not make more gates fail.

It does not know which gates there are. It keeps nothing: every try is a version in the store, so a killed run is run
again and finds them there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..config import as_dict
from ..records import digest
from ..train import adapter
from .result import Consolidation, Try
from .settings import Settings

Tries = Mapping[str, tuple[Try, ...]]  # by user, what was tried before
Again = Callable[[str, Settings, Tries], list[Consolidation]]  # (remedy, settings, users) -> what came of each


@dataclass(frozen=True)
class Remedy:
    """One change of the settings that may help."""

    name: str
    """What gates call it."""
    about: str
    """What it changes, for people."""
    change: Callable[[Settings], Settings]
    """The settings with the change."""


def _supervision(settings: Settings) -> Settings:
    capture = settings.capture
    more = {"wordings": capture.wordings + 3, "rounds": capture.rounds + 2, "draws": min(255, 2 * capture.draws)}
    unknown = -(-3 * capture.unknown_per_statement // 2)
    # In as many steps as before, each wording would be seen less often.
    train = replace(settings.train, steps=2 * settings.train.steps)
    return replace(settings, train=train, capture=replace(capture, unknown_per_statement=unknown, **more))


def _rank(settings: Settings) -> Settings:
    return replace(
        settings, train=replace(settings.train, rank=2 * settings.train.rank, alpha=2 * settings.train.alpha)
    )


def _anchors(settings: Settings) -> Settings:
    train = settings.train
    weight = 2 * train.curvature_weight or adapter.Config.curvature_weight
    return replace(settings, train=replace(train, curvature_weight=weight, anchor_rows=train.anchor_rows + 2))


def _constraints(settings: Settings) -> Settings:
    train = settings.train
    fewer = max(1, 2 * train.steps // 3)
    return replace(settings, train=replace(train, steps=fewer, warmup=min(train.warmup, fewer // 2)))


def _routing(settings: Settings) -> Settings:
    if not settings.train.experts:
        return settings
    return replace(settings, train=adapter.from_zero(replace(settings.train, experts=False)))  # a start has experts too


REMEDIES = (
    Remedy(
        "supervision", "more wordings, unanswerable questions and doubt of the teacher, twice the steps", _supervision
    ),
    Remedy("rank", "twice the rank", _rank),
    Remedy("anchors", "more KL to the base", _anchors),
    Remedy("constraints", "fewer steps", _constraints),
    Remedy("routing", "the experts left as they are", _routing),
)


@dataclass(frozen=True)
class _State:
    """How far one user is."""

    best: Consolidation
    """The candidate that the fewest gates refuse, so far."""
    settings: Settings
    """Its settings."""
    tries: tuple[Try, ...]
    """Every candidate so far."""

    def after(self, remedy: Remedy, settings: Settings, result: Consolidation) -> _State:
        """The state once a remedy was tried; `settings` and `result` are the remedy's."""
        tried = Try(remedy.name, remedy.about, changes(self.settings, settings), *_outcome(result))
        if result.approved or len(result.failed) <= len(self.best.failed):
            return _State(result, settings, (*self.tries, tried))
        return replace(self, tries=(*self.tries, tried))


def follow(first: Sequence[Consolidation], settings: Settings, again: Again) -> list[Consolidation]:
    """Try the remedies for every user who was refused, one after the other; users with equal settings go together."""
    states = {r.user: _State(r, settings, (Try("", "as asked for", {}, *_outcome(r)),)) for r in first}
    for remedy in REMEDIES:
        for changed, users in _groups(remedy, states):
            for result in again(remedy.name, changed, {user: states[user].tries for user in users}):
                states[result.user] = states[result.user].after(remedy, changed, result)
    return [replace(state.best, tries=state.tries) for state in states.values()]


def asks_for(remedy: Remedy, result: Consolidation) -> bool:
    """Whether a gate that failed names it."""
    return any(remedy.name in r.details.get("tries", ()) for r in result.verdict.results if not r.passed)


def changes(before: Settings, after: Settings) -> dict[str, list[Any]]:
    """What differs, as `stage.key: [before, after]`."""
    pairs = ((stage, as_dict(getattr(before, stage)), as_dict(getattr(after, stage))) for stage in ("capture", "train"))
    return {f"{stage}.{key}": [old[key], new[key]] for stage, old, new in pairs for key in new if old[key] != new[key]}


def _groups(remedy: Remedy, states: Mapping[str, _State]) -> Iterator[tuple[Settings, list[str]]]:
    """The users that a remedy is for, by the settings it gives them; one that changes nothing is not tried."""
    groups: dict[str, tuple[Settings, list[str]]] = {}
    for user, state in states.items():
        changed = remedy.change(state.settings)
        if not state.best.approved and asks_for(remedy, state.best) and changed != state.settings:
            groups.setdefault(digest(as_dict(changed)), (changed, []))[1].append(user)
    return iter(groups.values())


def _outcome(result: Consolidation) -> tuple[int, bool, tuple[str, ...]]:
    return result.version.number, result.approved, tuple(result.failed)
