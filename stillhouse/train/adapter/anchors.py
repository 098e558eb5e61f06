"""Against forgetting: KL(base || student) on running text that has nothing to do with any memory, fresh at every step.

In: tokenised text, an AdapterBank, the step. Out: a loss per slot. The base is the same network without an adapter.
So its whole distribution is computed when it is needed and never stored. No passage has to come twice, and nothing but
the base's behaviour can be learned by heart. Which windows a step sees is a function of the step alone. The base reads
the windows of several steps at once, always of the same steps, so that a resumed run gets the same numbers.

It does not know facts, users or optimisers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...generate import Ids, head, pad_right
from ...lora import AdapterBank
from ...losses import dense_forward_kl, through_head
from ...models import Model
from ...text import corpus
from ...trainer.precision import attention

PASSAGES = 600
CHUNK = 256  # positions whose logits, of the whole vocabulary, are there at once


@dataclass(frozen=True)
class Anchors:
    """`rows` windows of at most `tokens` tokens, every `every` steps. Their mean loss is weighed by `weight`."""

    passages: tuple[Ids, ...]
    rows: int
    tokens: int
    weight: float
    every: int
    seed: int
    opening: tuple[int, ...] = ()
    """Ids that stand before every text of this model; every window has them too."""

    def due(self, step: int) -> bool:
        """Whether this step looks at them."""
        return bool(self.passages) and step % self.every == self.every - 1

    def windows(self, step: int) -> list[Ids]:
        """The step's windows: passages from their beginning or, every other one, from somewhere inside."""
        rng = random.Random(f"{self.seed}/{step}/anchors")
        windows = []
        for number, ids in enumerate(rng.sample(self.passages, min(self.rows, len(self.passages)))):
            start = rng.randrange(max(1, len(ids) - self.tokens)) if number % 2 else 0
            windows.append([*self.opening, *ids[start : start + self.tokens]])
        return windows


def anchors(model: Model, rows: int, tokens: int, weight: float, every: int, seed: int) -> Anchors:
    """Tokenise the anchor passages (not those that gates measure on)."""
    passages = [model.text_ids(t) for t in corpus.anchors(PASSAGES, seed)] if rows else []
    passages = [ids for ids in passages if len(ids) > 8]
    return Anchors(tuple(passages), rows, tokens, weight, every, seed, model.opening)


class Reference:
    """The base's last hidden states at the tokens of a step's windows."""

    def __init__(self, model: Model, plan: Anchors, steps: int, tokens: int):
        """`steps` of training in all; about `tokens` are read at once."""
        self.model, self.plan, self.steps = model, plan, steps
        self.ahead = max(1, tokens // max(1, plan.rows * plan.tokens))
        self._states: dict[int, Tensor] = {}

    def states(self, step: int) -> Tensor:
        """`[P, H]`, window after window."""
        if step not in self._states:
            number = step // self.plan.every // self.ahead * self.ahead
            due = [n * self.plan.every + self.plan.every - 1 for n in range(number, number + self.ahead)]
            self._states = self._read([s for s in due if s < max(self.steps, step + 1)])
        return self._states[step]

    @torch.no_grad()
    def _read(self, steps: Sequence[int]) -> dict[int, Tensor]:
        windows = {step: self.plan.windows(step) for step in steps}
        ids_WT, mask_WT = pad_right([ids for own in windows.values() for ids in own], self.model)
        hidden_WTH = self.model.network.base_model(
            input_ids=ids_WT, attention_mask=mask_WT, use_cache=False
        ).last_hidden_state
        sizes = [sum(map(len, own)) for own in windows.values()]
        return dict(zip(windows, hidden_WTH[mask_WT.bool()].split(sizes), strict=True))


def anchor_loss(model: Model, bank: AdapterBank, slots: Sequence[int], reference: Reference, step: int) -> Tensor:
    """Mean KL(base || student) in nats per token for each of `slots`, loss_S, from a forward of its own."""
    ids_WT, mask_WT = pad_right(reference.plan.windows(step), model)
    ids_BT, mask_BT = (s_WT.repeat(len(slots), 1) for s_WT in (ids_WT, mask_WT))
    with (
        bank.rows([slot for slot in slots for _ in ids_WT], wide=model.device.type == "cpu"),
        attention(model, ids_BT.shape[1]),
    ):
        student_BTH = model.network.base_model(
            input_ids=ids_BT, attention_mask=mask_BT, use_cache=False
        ).last_hidden_state
    return drifts(model, reference, step, student_BTH[mask_BT.bool()], len(slots))


def drifts(model: Model, reference: Reference, step: int, student_PH: Tensor, students: int) -> Tensor:
    """Mean KL(base || student) in nats per token for each of `students`, drift_S.

    `student_PH`: their last hidden states at the step's windows, one student after another.
    """
    base_PH = reference.states(step).repeat(students, 1)
    return _divergence(model, base_PH, student_PH).view(students, -1).mean(1)


def _divergence(model: Model, base_PH: Tensor, student_PH: Tensor) -> Tensor:
    """KL(base || student) in nats, `[P]`, over the whole vocabulary, a chunk's logits at a time."""

    def part(student_pV: Tensor, start: int) -> Tensor:
        with torch.no_grad():
            base_pV = head(model)(base_PH[start : start + len(student_pV)]).log_softmax(-1, dtype=torch.float32)
        return dense_forward_kl(student_pV, base_pV)

    return through_head(student_PH, head(model), part, CHUNK)
