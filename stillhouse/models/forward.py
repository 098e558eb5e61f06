"""What stands before and behind a network's forward: rows padded to one length, and hidden states made logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .model import Model


def head(model: Model) -> Callable[[Tensor], Tensor]:
    """Hidden states to logits, with the final soft cap of the Gemma classes where the configuration has one."""
    output: torch.nn.Module = model.network.get_output_embeddings()
    cap = getattr(model.network.config.get_text_config(), "final_logit_softcapping", None)
    if not cap:
        return output
    return lambda hidden: torch.tanh(output(hidden) / cap) * cap


def pad_right(sequences: Sequence[Sequence[int]], model: Model) -> tuple[Tensor, Tensor]:
    """`(ids_BT, mask_BT)` padded on the right."""
    width = max(len(s) for s in sequences)
    ids_BT = torch.tensor([[*s, *[model.pad_id] * (width - len(s))] for s in sequences], device=model.device)
    mask_BT = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences], device=model.device)
    return ids_BT, mask_BT
