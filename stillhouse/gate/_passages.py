"""What base and student make of held-out text, each from one forward pass.

In: passages, a model with an AdapterBank, a slot. Out: per passage likelihoods, entropies, the divergence between the
two, the geometry of their hidden states (`_geometry.py`), and how often their routers chose the same experts.
A passage's logits and hidden states are freed before the next one; the base's are kept as far as `KEPT` bytes go, for
the next student of the same base is shown the same text.

It does not know what is good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stillhouse.generate import Bank, adapting, head
from stillhouse.models import Model

from ._geometry import adjacency_specificity, begins, boundary_contrast
from ._replies import refuse_nan

LAYERS = ("middle", "last")
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


def passages(model: Model, bank: Bank, texts: Sequence[str], slot: int) -> tuple[Passage, ...]:
    """Every text of two tokens or more, cut at the model's context. Raises `FloatingPointError` on NaN logits."""
    found = []
    for text in texts:
        encoded = model.tokenizer(text, return_offsets_mapping=True)
        ids = encoded["input_ids"][: model.context]
        if len(ids) > 1:
            found.append(_passage(model, bank, ids, begins(text, encoded["offset_mapping"][: model.context]), slot))
    return tuple(found)


def _passage(model: Model, bank: Bank, ids: Sequence[int], begins_T: Tensor, slot: int) -> Passage:
    base, student = _base(model, bank, tuple(ids)), _read(model, bank, ids, slot)
    next_T1 = torch.tensor(ids, device=model.device)[1:, None]
    base_TV, student_TV = base.logprobs_TV, student.logprobs_TV
    terms_TV = torch.where(base_TV > -torch.inf, base_TV.exp() * (base_TV - student_TV), 0.0)
    return Passage(
        tokens=len(next_T1),
        base_nll=-float(base_TV.gather(1, next_T1).double().sum()),
        student_nll=-float(student_TV.gather(1, next_T1).double().sum()),
        kl=float(terms_TV.sum(-1).double().clamp(min=0).sum()),
        base_entropy=_entropy(base_TV),
        student_entropy=_entropy(student_TV),
        base_axes=_axes(base.picked, begins_T),
        student_axes=_axes(student.picked, begins_T),
        routed=len(ids),
        same_experts=tuple(int(same_sets(*both).sum()) for both in zip(base.chosen, student.chosen, strict=True)),
        layers=tuple(_moved(*both, begins_T) for both in zip(base.states, student.states, strict=True)),
    )


class _Read(NamedTuple):
    """What one of the two makes of a passage of T tokens: log-probabilities of all but the first, hidden states
    `[T, H]` after every layer, and the experts that each layer with a router chose, `[T, K]`."""

    logprobs_TV: Tensor
    states: tuple[Tensor, ...]
    chosen: tuple[Tensor, ...]

    @property
    def picked(self) -> tuple[Tensor, Tensor]:
        """The states of `LAYERS`."""
        return self.states[(len(self.states) + 1) // 2 - 1], self.states[-1]

    @property
    def bytes(self) -> int:
        return sum(t.nbytes for t in (self.logprobs_TV, *self.states, *self.chosen))


@torch.inference_mode()
def _read(model: Model, bank: Bank, ids: Sequence[int], slot: int) -> _Read:
    network: Any = model.network.base_model
    with watched(model.network) as chosen, adapting(bank, [slot], model):
        out = network(input_ids=torch.tensor([ids], device=model.device), output_hidden_states=True, use_cache=False)
    states = tuple(hidden_1TH[0] for hidden_1TH in (*out.hidden_states[1:-1], out.last_hidden_state))
    return _Read(_logprobs(model, states[-1][:-1]), states, tuple(chosen))


def _base(model: Model, bank: Bank, ids: tuple[int, ...]) -> _Read:
    known = _BASES.setdefault(model.network, {})
    if ids not in known:
        found = _read(model, bank, ids, -1)
        if sum(read.bytes for read in known.values()) + found.bytes > KEPT:
            return found
        known[ids] = found
    return known[ids]


_BASES: WeakKeyDictionary[PreTrainedModel, dict[tuple[int, ...], _Read]] = WeakKeyDictionary()


def _moved(base_TH: Tensor, student_TH: Tensor, begins_T: Tensor) -> Moved:
    near_T = torch.cosine_similarity(base_TH.float(), student_TH.float(), dim=-1)
    (c1, d1), (c2, d2) = (
        (boundary_contrast(s, begins_T), adjacency_specificity(s)) for s in (base_TH, student_TH)
    )  # fmt: skip
    return Moved(1 - float(near_T.mean()), _change(c1, c2), _change(d1, d2))


def _change(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def by_layer(passages: Sequence[Passage], pick: Callable[[Moved], float | None]) -> list[float | None]:
    """The mean of one of the numbers of `Moved` over passages that have it, layer by layer; for the report."""
    columns = zip(*(p.layers for p in passages), strict=True)
    found = [[v for v in map(pick, column) if v is not None] for column in columns]
    return [sum(values) / len(values) if values else None for values in found]


def _logprobs(model: Model, hidden_TH: Tensor) -> Tensor:
    logits_TV = head(model)(hidden_TH).float()
    refuse_nan(logits_TV)
    return torch.log_softmax(logits_TV, -1)


def _entropy(logprobs_TV: Tensor) -> float:
    return float(torch.special.entr(logprobs_TV.exp()).double().sum())


def _axes(states: Sequence[Tensor], begins_T: Tensor) -> Axes:
    return Axes(
        tuple(boundary_contrast(hidden_TH, begins_T) for hidden_TH in states),
        tuple(adjacency_specificity(hidden_TH) for hidden_TH in states),
    )


def same_sets(left_TK: Tensor, right_TK: Tensor) -> Tensor:
    """same_T, bool: both chose the same experts for the token, in whatever order."""
    return (left_TK.sort(-1).values == right_TK.sort(-1).values).all(-1)


@contextmanager
def watched(network: nn.Module) -> Iterator[list[Tensor]]:
    """Inside: the list fills with the experts that every layer chose, chosen_NK of flattened tokens, in layer order.

    Experts are modules of stacked weights that are handed the router's choice as their second argument, as
    transformers' mixture-of-experts classes do; without such modules the list stays empty.
    """
    chosen: list[Tensor] = []

    def note(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        index = given[1] if len(given) > 1 else named.get("top_k_index", named.get("router_indices"))
        if isinstance(index, Tensor) and not index.is_floating_point():
            chosen.append(index)

    hooks = [m.register_forward_pre_hook(note, with_kwargs=True) for m in network.modules() if _is_experts(m)]
    try:
        yield chosen
    finally:
        for hook in hooks:
            hook.remove()


def _is_experts(module: nn.Module) -> bool:
    stacked = {name: p.dim() for name, p in module.named_parameters(recurse=False)}
    return stacked.get("down_proj") == 3
