"""Records what a network computes inside while it runs: hidden states and the choices of its routers.

In: a network of transformers and one forward of right-padded rows. Out: the hidden states after every layer, and the
experts that every layer with a router chose. It does not know what they are used for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel


def states_of(network: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor | None, every: bool) -> tuple[Tensor, ...]:
    """Hidden states `[B, T, width]` after every layer, or only after the last one when `every` is False. Those of the
    last layer are after the final norm."""
    base: Any = network.base_model
    if not every:
        return (base(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state,)
    out = base(input_ids=ids_BT, attention_mask=mask_BT, output_hidden_states=True, use_cache=False)
    return (*out.hidden_states[1:-1], out.last_hidden_state)


@contextmanager
def chosen_experts(network: nn.Module) -> Iterator[list[Tensor]]:
    """In this context the list fills with the experts that every layer chose, `[B * T, K]`, in the order of the layers.

    Experts are modules of stacked weights whose second argument is the router's choice, as in transformers'
    mixture-of-experts classes. Without such modules the list stays empty.
    """
    chosen: list[Tensor] = []

    def record(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        index = arguments[1] if len(arguments) > 1 else keywords.get("top_k_index", keywords.get("router_indices"))
        if isinstance(index, Tensor) and not index.is_floating_point():
            chosen.append(index)

    hooks = [m.register_forward_pre_hook(record, with_kwargs=True) for m in network.modules() if _is_experts(m)]
    try:
        yield chosen
    finally:
        for hook in hooks:
            hook.remove()


def _is_experts(module: nn.Module) -> bool:
    stacked = {name: p.dim() for name, p in module.named_parameters(recurse=False)}
    return stacked.get("down_proj") == 3
