"""What base and student make of held-out text, each from one forward pass over a few passages.

In: passages, a runner, an adapter slot. Out: per passage likelihoods, entropies, the divergence between the
two, the geometry of their hidden states (`gating/geometry.py`), and how often their routers chose the same experts.
A passage's logits are freed before the next one's; what the base made of it is kept as far as `KEPT` bytes go, for the
next student of the same base is shown the same text.

It does not know what is good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..generate import batches
from ..runners import BASE, Runner, Watch
from .geometry import adjacency_specificity, begins, boundary_contrast
from .replies import refuse_nan

LAYERS = ("middle", "last")
AT_ONCE = 1024  # tokens in one forward, padding included
KEPT = 2**28  # bytes of what the base made of passages


@dataclass(frozen=True)
class Axes:
    """C1 and C2 of one passage per layer of `LAYERS`; None where they do not exist."""

    boundary: tuple[float | None, ...]
    adjacency: tuple[float | None, ...]


@dataclass(frozen=True)
class Moved:
    """How one layer's hidden states have moved: mean cosine distance of student from base over the tokens, and the
    changes of C1 and C2; None where they do not exist."""

    distance: float
    boundary: float | None
    adjacency: float | None


@dataclass(frozen=True)
class Passage:
    """One passage: negative log-likelihoods, entropies and KL(base || student), in nats, summed over `tokens`
    predictions; `same_experts`: per layer with a router, at how many of the `routed` tokens base and student chose the
    same set of experts."""

    tokens: int
    base_nll: float
    student_nll: float
    kl: float
    base_entropy: float
    student_entropy: float
    base_axes: Axes
    student_axes: Axes
    routed: int
    same_experts: tuple[int, ...]
    layers: tuple[Moved, ...] = ()  # every layer, first to last


def passages(runner: Runner, texts: Sequence[str], slot: int) -> tuple[Passage, ...]:
    """Every text of two tokens or more, cut at the model's context. Raises `FloatingPointError` on NaN logits."""
    model, shown = runner.model, list[_Shown]()
    for text in texts:
        encoded = model.tokenizer(text, return_offsets_mapping=True, verbose=False)
        ids = encoded["input_ids"][: model.context]
        if len(ids) > 1:
            starts_T = begins(text, encoded["offset_mapping"][: model.context])
            shown.append(_Shown(tuple(ids), tuple(starts_T.tolist())))
    once = list(dict.fromkeys(shown))
    found: dict[_Shown, Passage] = {}
    for rows in batches([len(passage.ids) for passage in once], AT_ONCE):
        some = [once[row] for row in rows]
        both = zip(_bases(runner, some), _reads(runner, some, slot), strict=True)
        found |= {base.shown: _passage(base, student) for base, student in both}
    return tuple(found[passage] for passage in shown)


class _Shown(NamedTuple):
    """A passage: its ids, and of each whether a sentence or a paragraph begins with it."""

    ids: tuple[int, ...]
    begins: tuple[bool, ...]


def _passage(base: _Read, student: _Read) -> Passage:
    base_TV, student_TV = base.logprobs_TV, student.logprobs_TV
    next_T1 = torch.tensor(base.shown.ids, device=base_TV.device)[1:, None]
    terms_TV = torch.where(base_TV > -torch.inf, base_TV.exp() * (base_TV - student_TV), 0.0)
    return Passage(
        tokens=len(next_T1),
        base_nll=-float(base_TV.gather(1, next_T1).double().sum()),
        student_nll=-float(student_TV.gather(1, next_T1).double().sum()),
        kl=float(terms_TV.sum(-1).double().clamp(min=0).sum()),
        base_entropy=base.entropy,
        student_entropy=student.entropy,
        base_axes=base.axes,
        student_axes=student.axes,
        routed=len(base.shown.ids),
        same_experts=tuple(int(same_sets(*both).sum()) for both in zip(base.chosen, student.chosen, strict=True)),
        layers=tuple(_moved(base, student, layer) for layer in range(len(base.states))),
    )


@dataclass(frozen=True)
class _Read:
    """What one of the two makes of a passage of T tokens: log-probabilities of all but the first, hidden states
    `[T, H]` after every layer, and the experts that each layer with a router chose, `[T, K]`."""

    shown: _Shown
    logprobs_TV: Tensor
    states: tuple[Tensor, ...]
    chosen: tuple[Tensor, ...]

    @cached_property
    def entropy(self) -> float:
        return float(torch.special.entr(self.logprobs_TV.exp()).double().sum())

    @cached_property
    def turns(self) -> tuple[tuple[float | None, float | None], ...]:
        """C1 and C2 after every layer."""
        begins_T = torch.tensor(self.shown.begins)
        return tuple((boundary_contrast(s_TH, begins_T), adjacency_specificity(s_TH)) for s_TH in self.states)

    @property
    def axes(self) -> Axes:
        picked = self.turns[(len(self.states) + 1) // 2 - 1], self.turns[-1]  # of `LAYERS`
        return Axes(tuple(boundary for boundary, _ in picked), tuple(adjacency for _, adjacency in picked))

    @property
    def bytes(self) -> int:
        return sum(t.nbytes for t in (self.logprobs_TV, *self.states, *self.chosen))

    def copy(self) -> _Read:
        """In memory of its own."""
        return replace(self, states=_copied(self.states), chosen=_copied(self.chosen))


def _copied(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor.clone() for tensor in tensors)


@torch.inference_mode()
def _reads(runner: Runner, some: Sequence[_Shown], slot: int) -> Iterator[_Read]:
    """Logits are there of one passage at a time."""
    if not some:
        return
    watch = Watch(tuple(range(runner.layers)), experts=True)
    readings = runner.read([shown.ids for shown in some], [slot] * len(some), watch)
    for shown, reading in zip(some, readings, strict=True):
        logits_TV = reading.logits(end=-1)
        refuse_nan(logits_TV)
        yield _Read(shown, torch.log_softmax(logits_TV, -1), reading.states, reading.experts)


def _bases(runner: Runner, some: Sequence[_Shown]) -> Iterator[_Read]:
    """What the base makes of passages. It is kept as far as it fits, for the next student of the same base."""
    known = runner.model.once("gating.bases", dict[_Shown, _Read])
    read = _reads(runner, [shown for shown in some if shown not in known], BASE)
    for shown in some:
        if shown in known:
            yield known[shown]
            continue
        found = next(read)
        if sum(base.bytes for base in known.values()) + found.bytes <= KEPT:
            known[shown] = found = found.copy()
        yield found


def _moved(base: _Read, student: _Read, layer: int) -> Moved:
    near_T = torch.cosine_similarity(base.states[layer].float(), student.states[layer].float(), dim=-1)
    (c1, c2), (d1, d2) = base.turns[layer], student.turns[layer]
    return Moved(1 - float(near_T.mean()), _change(c1, d1), _change(c2, d2))


def _change(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def by_layer(passages: Sequence[Passage], pick: Callable[[Moved], float | None]) -> list[float | None]:
    """The mean of one of the numbers of `Moved` over passages that have it, layer by layer; for the report."""
    columns = zip(*(p.layers for p in passages), strict=True)
    found = [[v for v in map(pick, column) if v is not None] for column in columns]
    return [sum(values) / len(values) if values else None for values in found]


def same_sets(left_TK: Tensor, right_TK: Tensor) -> Tensor:
    """same_T, bool: both chose the same experts for the token, in whatever order."""
    return (left_TK.sort(-1).values == right_TK.sort(-1).values).all(-1)
