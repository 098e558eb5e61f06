"""Base and student compared on passages of held-out text. Each reads a few passages in one forward pass.

In: passages, a runner, an adapter slot. Out: a `PassageComparison` for each, with likelihoods, entropies, the
divergence between the two, the geometry of their hidden states (`gating/geometry.py`), and how often their routers
chose the same experts. There are logits of one passage at a time. The base's readings stay with the model, up to
`CACHE_BYTES`, because the next student of the same base is compared on the same text.

It does not know which values are good.
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
from .scored_answers import refuse_nan

LAYERS = ("middle", "last")
BATCH_TOKENS = 1024  # in one forward, padding included
CACHE_BYTES = 2**28  # of the base's readings


@dataclass(frozen=True)
class PassageGeometry:
    """C1 and C2 of one passage, for each layer of `LAYERS`; None where they do not exist."""

    boundary: tuple[float | None, ...]
    adjacency: tuple[float | None, ...]


@dataclass(frozen=True)
class LayerShift:
    """How far the student's hidden states of one layer are from the base's, on one passage."""

    distance: float  # mean cosine distance over the tokens
    boundary: float | None  # change of C1, in cosine; None where C1 does not exist
    adjacency: float | None  # change of C2, in cosine; None where C2 does not exist


@dataclass(frozen=True)
class PassageComparison:
    """Base and student on one passage. Likelihoods, entropies and KL are sums over the predicted tokens, in nats."""

    tokens: int  # predicted ones: all but the first
    base_nll: float
    student_nll: float
    kl: float  # KL(base || student)
    base_entropy: float
    student_entropy: float
    base_geometry: PassageGeometry
    student_geometry: PassageGeometry
    routed: int  # tokens that routers have seen: all
    same_experts: tuple[int, ...]  # for each layer with a router: tokens for which both chose the same set of experts
    layers: tuple[LayerShift, ...] = ()  # every layer, first to last


def compare_passages(runner: Runner, texts: Sequence[str], slot: int) -> tuple[PassageComparison, ...]:
    """One comparison for each text of two tokens or more, cut at the model's context.

    Raises `FloatingPointError` on NaN logits.
    """
    model, tokenized = runner.model, list[_TokenizedPassage]()
    for text in texts:
        encoded = model.tokenizer(text, return_offsets_mapping=True, verbose=False)
        ids = encoded["input_ids"][: model.context]
        if len(ids) > 1:
            starts_T = begins(text, encoded["offset_mapping"][: model.context])
            tokenized.append(_TokenizedPassage(tuple(ids), tuple(starts_T.tolist())))
    distinct = list(dict.fromkeys(tokenized))
    comparisons: dict[_TokenizedPassage, PassageComparison] = {}
    for rows in batches([len(passage.ids) for passage in distinct], BATCH_TOKENS):
        batch = [distinct[row] for row in rows]
        both = zip(_base_readings(runner, batch), _readings(runner, batch, slot), strict=True)
        comparisons |= {base.passage: _comparison(base, student) for base, student in both}
    return tuple(comparisons[passage] for passage in tokenized)


class _TokenizedPassage(NamedTuple):
    ids: tuple[int, ...]
    begins: tuple[bool, ...]  # for each token: a sentence or a paragraph begins with it


def _comparison(base: _PassageReading, student: _PassageReading) -> PassageComparison:
    base_TV, student_TV = base.logprobs_TV, student.logprobs_TV
    next_T1 = torch.tensor(base.passage.ids, device=base_TV.device)[1:, None]
    terms_TV = torch.where(base_TV > -torch.inf, base_TV.exp() * (base_TV - student_TV), 0.0)
    return PassageComparison(
        tokens=len(next_T1),
        base_nll=-float(base_TV.gather(1, next_T1).double().sum()),
        student_nll=-float(student_TV.gather(1, next_T1).double().sum()),
        kl=float(terms_TV.sum(-1).double().clamp(min=0).sum()),
        base_entropy=base.entropy,
        student_entropy=student.entropy,
        base_geometry=base.geometry,
        student_geometry=student.geometry,
        routed=len(base.passage.ids),
        same_experts=tuple(int(same_sets(*both).sum()) for both in zip(base.experts, student.experts, strict=True)),
        layers=tuple(_shift(base, student, layer) for layer in range(len(base.states))),
    )


@dataclass(frozen=True)
class _PassageReading:
    """What base or student computed for a passage of T tokens."""

    passage: _TokenizedPassage
    logprobs_TV: Tensor  # of all tokens but the first
    states: tuple[Tensor, ...]  # states_TH after every layer
    experts: tuple[Tensor, ...]  # experts_TK that each layer with a router chose

    @cached_property
    def entropy(self) -> float:
        return float(torch.special.entr(self.logprobs_TV.exp()).double().sum())

    @cached_property
    def contrasts(self) -> tuple[tuple[float | None, float | None], ...]:
        """C1 and C2 after every layer."""
        begins_T = torch.tensor(self.passage.begins)
        return tuple((boundary_contrast(s_TH, begins_T), adjacency_specificity(s_TH)) for s_TH in self.states)

    @property
    def geometry(self) -> PassageGeometry:
        picked = self.contrasts[(len(self.states) + 1) // 2 - 1], self.contrasts[-1]  # of `LAYERS`
        return PassageGeometry(tuple(boundary for boundary, _ in picked), tuple(adjacency for _, adjacency in picked))

    @property
    def bytes(self) -> int:
        return sum(t.nbytes for t in (self.logprobs_TV, *self.states, *self.experts))

    def copy(self) -> _PassageReading:
        """The same with tensors of its own, which do not keep a whole batch in memory."""
        return replace(self, states=_copied(self.states), experts=_copied(self.experts))


def _copied(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor.clone() for tensor in tensors)


@torch.inference_mode()
def _readings(runner: Runner, batch: Sequence[_TokenizedPassage], slot: int) -> Iterator[_PassageReading]:
    """The readings of one forward pass. Each has its logits computed when its turn comes."""
    if not batch:
        return
    watch = Watch(tuple(range(runner.layers)), experts=True)
    readings = runner.read([passage.ids for passage in batch], [slot] * len(batch), watch)
    for passage, reading in zip(batch, readings, strict=True):
        logits_TV = reading.logits(end=-1)
        refuse_nan(logits_TV)
        yield _PassageReading(passage, torch.log_softmax(logits_TV, -1), reading.states, reading.experts)


def _base_readings(runner: Runner, batch: Sequence[_TokenizedPassage]) -> Iterator[_PassageReading]:
    """The base's readings. They are cached on the model as far as they fit, for the next student of the same base."""
    cache = runner.model.once("gating.base_readings", dict[_TokenizedPassage, _PassageReading])
    new = _readings(runner, [passage for passage in batch if passage not in cache], BASE)
    for passage in batch:
        if passage in cache:
            yield cache[passage]
            continue
        reading = next(new)
        if sum(cached.bytes for cached in cache.values()) + reading.bytes <= CACHE_BYTES:
            cache[passage] = reading = reading.copy()
        yield reading


def _shift(base: _PassageReading, student: _PassageReading, layer: int) -> LayerShift:
    cosine_T = torch.cosine_similarity(base.states[layer].float(), student.states[layer].float(), dim=-1)
    (base_c1, base_c2), (student_c1, student_c2) = base.contrasts[layer], student.contrasts[layer]
    return LayerShift(1 - float(cosine_T.mean()), _change(base_c1, student_c1), _change(base_c2, student_c2))


def _change(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def by_layer(
    comparisons: Sequence[PassageComparison], pick: Callable[[LayerShift], float | None]
) -> list[float | None]:
    """For each layer the mean of one number of `LayerShift`, over the passages that have it; None where none has."""
    layers = zip(*(c.layers for c in comparisons), strict=True)
    columns = [[value for value in map(pick, shifts) if value is not None] for shifts in layers]
    return [sum(values) / len(values) if values else None for values in columns]


def same_sets(left_TK: Tensor, right_TK: Tensor) -> Tensor:
    """same_T, bool: both chose the same experts for the token. Their order does not count."""
    return (left_TK.sort(-1).values == right_TK.sort(-1).values).all(-1)
