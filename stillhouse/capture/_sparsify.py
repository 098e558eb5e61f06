"""A teacher's forward over token sequences, cut down to sparse signals while the logits are still warm.

In: sequences of ids and where the answer begins in each. Out: `Targets` columns, sequence after sequence. Only target
positions go through the LM head, `CHUNK` at a time, so that no `[tokens, vocabulary]` tensor is ever held.

It does not know prompts, files or why a position was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .._artifacts_columns import Ints, Targets, concatenate, from_sparse
from ..errors import ModelError
from ..generate import head, pad_right
from ..losses import sparsify
from ..models import Model

CHUNK = 128  # positions at once: at a vocabulary of 152k some 80 MB in float32, a few times


@dataclass(frozen=True)
class Spoken:
    """What the teacher reads (`prompt` and `answer`) and what the student will read instead of `prompt`."""

    teacher_prompt: tuple[int, ...]
    student_prompt: tuple[int, ...]
    answer: tuple[int, ...]
    request: str = ""  # JSON: what was asked, before the chat template

    @property
    def x_ids(self) -> tuple[int, ...]:
        """What the student reads."""
        return (*self.student_prompt, *self.answer)


@torch.inference_mode()
def targets(
    model: Model, batch: Sequence[Spoken], top_k: int, draws: int, keep: float, generator: torch.Generator
) -> Targets:
    """The teacher's distribution at every token of every answer. `ModelError` when its logits are not numbers."""
    ids_BT, mask_BT = pad_right([[*s.teacher_prompt, *s.answer] for s in batch], model)
    hidden_BTH = model.network.base_model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state
    rows = [(b, len(s.teacher_prompt) - 1 + i) for b, s in enumerate(batch) for i in range(len(s.answer))]
    row_P, column_P = torch.tensor(rows, device=model.device).reshape(-1, 2).unbind(1)
    label_P = torch.tensor([t for s in batch for t in s.answer], device=model.device)
    position_P, offset_P = _places(model, batch)
    found = []
    for start in range(0, len(rows), CHUNK):
        here = slice(start, start + CHUNK)
        logprobs_PV = _logprobs(model, hidden_BTH[row_P[here], column_P[here]])
        actual_P = logprobs_PV.gather(-1, label_P[here, None])[:, 0].cpu().numpy()
        sparse = sparsify(logprobs_PV, top_k, draws, generator, keep)
        found.append(from_sparse(sparse, position_P[here], offset_P[here], actual_P))
    return concatenate(found)


def _logprobs(model: Model, hidden_PH: Tensor) -> Tensor:
    logprobs_PV = torch.log_softmax(head(model)(hidden_PH).float(), -1)
    if bool(torch.isnan(logprobs_PV[:, 0]).any()):
        raise ModelError(
            f"{model.ref}: its logits are not numbers (NaN); the weights are damaged or overflow {model.network.dtype}"
        )
    return logprobs_PV


def _places(model: Model, batch: Sequence[Spoken]) -> tuple[Ints, Ints]:
    """Of every target: its index in what the student reads, and the byte where it begins."""
    positions, offsets = [], []
    for s in batch:
        ends = np.cumsum([0, *(len(model.token_bytes[t]) for t in s.x_ids)])
        at = np.arange(len(s.student_prompt), len(s.x_ids))
        positions.append(at)
        offsets.append(ends[at])
    return np.concatenate(positions), np.concatenate(offsets)
