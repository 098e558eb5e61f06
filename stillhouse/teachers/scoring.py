"""Teachers' forwards over token sequences; the logits become sparse signals at once.

In: sequences of ids, where the answer begins in each, and one teacher or several with weights. Out: `Targets` columns,
sequence after sequence, of the teacher's distribution or of the teachers' mixture `sum w_i p_i`. Only target positions
go through the LM head, some hundreds at a time, so that there is never a `[tokens, vocabulary]` tensor.

It does not know prompts or files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ModelError
from ..generate import head, pad_right
from ..losses import SparseTargets
from ..models import Model
from ..signals.columns import Ints, Targets, concatenate, from_sparse
from ..signals.sparsify import LOGITS_BLOCK, rows_at_once, sparsify_logits
from .examples import TokenizedExamples
from .positions import marked
from .settings import Config

CHUNK = 256  # positions at once, at least: 160 MB in float32 at a vocabulary of 152k
LOGITS = 1 << 21  # logits at once, where that is more positions


@dataclass(frozen=True)
class Mixture:
    """Teachers of one tokenizer and their weights, which sum to one. The first one's device is where they meet."""

    models: tuple[Model, ...]
    weights: tuple[float, ...]

    @property
    def vocabulary(self) -> int:
        """The smallest width of their logits: models of one family pad their vocabularies differently."""
        return min(m.vocabulary for m in self.models)


@torch.inference_mode()
def targets(
    mixture: Mixture, batch: TokenizedExamples, config: Config, generator: torch.Generator
) -> tuple[Targets, Ints]:
    """The distribution at the chosen tokens of every answer, and how many tokens are chosen of each answer.

    `ModelError` when logits are not numbers.
    """
    sequences = [[*s.teacher_prompt, *s.answer] for s in batch]
    hidden = [_hidden(model, sequences) for model in mixture.models]
    device, table = mixture.models[0].device, mixture.models[0].token_bytes
    rows = [(b, len(s.teacher_prompt) - 1 + i) for b, s in enumerate(batch) for i in range(len(s.answer))]
    chosen_P = np.concatenate([marked(config.positions, [table[t] for t in s.answer]) for s in batch])
    label_P = np.array([t for s in batch for t in s.answer], np.int64)
    scored_P = np.flatnonzero(chosen_P | (config.positions.entropy > 0))
    row_P, column_P = torch.tensor(rows, device=device).reshape(-1, 2)[torch.from_numpy(scored_P)].unbind(1)
    position_P, offset_P = _places(table, batch)
    parts = []
    chunk = max(CHUNK, LOGITS // mixture.vocabulary)
    for start in range(0, len(scored_P), chunk):
        here, at_P = slice(start, start + chunk), scored_P[start : start + chunk]
        logits_PV = _logits(mixture, [h[row_P[here].to(h.device), column_P[here].to(h.device)] for h in hidden])
        if config.positions.entropy > 0:
            chosen_P[at_P] |= _entropy(logits_PV) >= config.positions.entropy
            logits_PV, at_P = logits_PV[torch.from_numpy(chosen_P[at_P])], at_P[chosen_P[at_P]]
        sparse, actual_P = _reduced(mixture, logits_PV, torch.from_numpy(label_P[at_P]).to(device), config, generator)
        parts.append(from_sparse(sparse, position_P[at_P], offset_P[at_P], actual_P))
    example_P = np.repeat(np.arange(len(batch)), [len(s.answer) for s in batch])
    counts_N = np.bincount(example_P[chosen_P], minlength=len(batch))
    return (concatenate(parts) if parts else nothing()), counts_N


def nothing() -> Targets:
    """No positions."""
    ints, floats = np.zeros(0, np.int64), np.zeros(0, np.float32)
    return Targets(ints, ints, floats, floats, ints, ints, floats, ints, ints, floats)


def _hidden(model: Model, sequences: Sequence[list[int]]) -> Tensor:
    ids_BT, mask_BT = pad_right(sequences, model)
    hidden_BTH: Tensor = model.network.base_model(
        input_ids=ids_BT, attention_mask=mask_BT, use_cache=False
    ).last_hidden_state
    return hidden_BTH


def _logits(mixture: Mixture, hidden: Sequence[Tensor]) -> Tensor:
    """The model's logits, or the mixture's log-probabilities: `[P, V]`, float32, a tensor that may be overwritten."""
    parts = [
        head(model)(h_PH)[:, : mixture.vocabulary].float() for model, h_PH in zip(mixture.models, hidden, strict=True)
    ]
    if len(parts) == 1:
        return parts[0]
    device = mixture.models[0].device
    weighed = [
        _normalised(part).to(device) + math.log(weight) for part, weight in zip(parts, mixture.weights, strict=True)
    ]
    return torch.stack(weighed).logsumexp(0)


def _reduced(
    mixture: Mixture, logits_PV: Tensor, labels_P: Tensor, config: Config, generator: torch.Generator
) -> tuple[SparseTargets, NDArray[np.float32]]:
    """The sparse targets of these positions, and the log-probability of each label. Overwrites the logits."""
    at_P = logits_PV.gather(-1, labels_P[:, None])[:, 0]
    sparse, normaliser_P = sparsify_logits(logits_PV, config.sparsity, generator)
    if not bool(normaliser_P.isfinite().all()):
        model = mixture.models[0]
        raise ModelError(
            f"{model.ref}: its logits are not numbers (NaN); the weights are damaged or overflow {model.network.dtype}"
        )
    return sparse, (at_P - normaliser_P).cpu().numpy()


def _normalised(logits_PV: Tensor) -> Tensor:
    """Log-softmax in place. On a CPU in blocks that fit its cache, since a second buffer costs more than the sums."""
    for block_pV in logits_PV.split(rows_at_once(logits_PV, LOGITS_BLOCK)):
        block_pV -= block_pV.logsumexp(-1, keepdim=True)
    return logits_PV


def _entropy(logits_PV: Tensor) -> NDArray[np.float32]:
    """Nats per position."""
    entropy_P: NDArray[np.float32] = torch.special.entr(logits_PV.softmax(-1)).sum(-1).cpu().numpy()
    return entropy_P


def _places(table: Sequence[bytes], batch: TokenizedExamples) -> tuple[Ints, Ints]:
    """For every answer token: its index in the student's ids, and the byte where it begins."""
    positions, offsets = [], []
    for s in batch:
        ends = np.cumsum([0, *(len(table[t]) for t in s.x_ids)])
        at = np.arange(len(s.student_prompt), len(s.x_ids))
        positions.append(at)
        offsets.append(ends[at])
    return np.concatenate(positions), np.concatenate(offsets)
