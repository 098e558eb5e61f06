"""A teacher's inner states beside its signals: hidden states in 8 bits, and its routers' choices, at answer positions.

In: captured signals, the model that wrote them, which layers. Out: one Parquet file per shard in the same folder
(`docs/formats/states.md`): a row per example and layer. A layer is named by its share of the depth, so that a student
of another depth can take the corresponding one. The states take a second forward over the captured examples.

It does not know students.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ...compute.threads import fastest_threads
from ...config import as_dict
from ...errors import InputError, StoreError
from ...generate import batches, pad_right
from ...models import Model
from ...records import digest
from ...signals import Shard
from ...storage.files import write_atomic
from .dataset import Captured

FORMAT = "1"
ROUTER = re.compile(r"(^|\.)(gate|router)$")
SCHEMA = pa.schema([
    ("example", pa.int32()), ("layer", pa.float64()), ("hidden", pa.list_(pa.int8())),
    ("scale", pa.list_(pa.float32())), ("experts", pa.list_(pa.int16())), ("logprobs", pa.list_(pa.float32())),
])  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Which inner states of a teacher are recorded."""

    layers: tuple[float, ...] = (0.5, 1.0)
    """Shares of the depth, more than 0 and at most 1; 1.0 is the last layer. At least one."""
    hidden: bool = True
    """Whether hidden states are recorded; without them only the routers' choices are."""
    experts: int = 8
    """Experts of each router's choice that are kept, 0 (none) to 255."""

    def __post_init__(self) -> None:
        if wrong := [x for x in self.layers if not 0 < x <= 1]:
            raise InputError(f"traces.layers: {wrong[0]} is not a share of the depth; more than 0, at most 1")
        if not self.layers or not 0 <= self.experts < 256:
            raise InputError("traces: at least one layer, and experts from 0 (none) to 255")


@dataclass
class LayerOutputs:
    """Outputs of the last forward inside `watched`, by layer."""

    hidden: dict[float, Tensor] = field(default_factory=dict)  # [B, T, H]
    router: dict[float, Tensor] = field(default_factory=dict)  # logits [B * T, E]


@dataclass(frozen=True)
class Traced:
    """States at P positions of L layers. `logprobs_LPK` belong to `experts_LPK`, most likely first; K is 0 without
    routers. The hidden states are `hidden_LPG * scale_LP / 127`."""

    layers: tuple[float, ...]
    hidden_LPG: NDArray[np.int8]
    scale_LP: NDArray[np.float32]
    experts_LPK: NDArray[np.int64]
    logprobs_LPK: NDArray[np.float32]


@contextmanager
def watched(network: PreTrainedModel, layers: Sequence[float], routers: bool) -> Iterator[LayerOutputs]:
    """Inside, every forward of `network` leaves the outputs of these layers and the logits of their routers."""
    stack, seen, undo = cast(Any, network).get_decoder().layers, LayerOutputs(), []
    for layer in layers:
        module = stack[max(0, round(layer * len(stack)) - 1)]

        def keep(_: nn.Module, __: Any, out: Any, layer: float = layer) -> None:
            seen.hidden[layer] = out[0] if isinstance(out, tuple) else out

        def choose(router: nn.Module, given: tuple[Tensor, ...], _: Any, layer: float = layer) -> None:
            linear = cast(Any, router)
            seen.router[layer] = F.linear(given[0].flatten(0, -2), linear.weight, getattr(linear, "bias", None))

        undo.append(module.register_forward_hook(keep))
        parts = module.named_modules() if routers else ()
        undo += [m.register_forward_hook(choose) for name, m in parts if ROUTER.search(name) and _is_router(m)]
    try:
        yield seen
    finally:
        for handle in undo:
            handle.remove()


def _is_router(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() == 2


def record(
    model: Model, captured: Captured, config: Config, on_step: Callable[[int, str], None] = lambda n, note: None
) -> list[Traced]:
    """The states of every shard, recorded where they are missing. `InputError` where the teacher reads a system message
    of its own: its positions have another context than the student's."""
    if captured.config.get("teacher_system"):
        raise InputError("traces: the teacher reads a system message that the student does not; take one of them out")
    traced = []
    for name, shard in zip(captured.shards, captured.read(), strict=True):
        file = captured.folder / f"traces-{digest([FORMAT, name, as_dict(config)])[:32]}.parquet"
        if not file.exists():
            write_atomic(file, _shard(model, shard, config))
        on_step(len(shard), "")
        traced.append(read(file))
    return traced


def read(file: Path) -> Traced:
    """A file of traces. `StoreError` when it is damaged or of another format."""
    try:
        table = pq.read_table(file)
        if (table.schema.metadata or {}).get(b"stillhouse.traces") != FORMAT.encode():
            raise StoreError(f"{file}: not traces of format {FORMAT}; delete it and capture again")
        rows = table.to_pydict()
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{file}: cannot be read ({error}); delete it and capture again") from error
    layers = tuple(dict.fromkeys(rows["layer"]))
    mine = [[i for i, layer in enumerate(rows["layer"]) if layer == one] for one in layers]
    columns = {name: [[x for i in part for x in rows[name][i]] for part in mine] for name in SCHEMA.names[2:]}
    scale_LP = np.array(columns["scale"], np.float32)
    places = scale_LP.shape[1]

    def shaped(name: str, kind: type) -> NDArray[Any]:
        return np.array(columns[name], kind).reshape(len(layers), places, -1)

    return Traced(layers, shaped("hidden", np.int8), scale_LP, shaped("experts", np.int64),
                  shaped("logprobs", np.float32))  # fmt: skip


@torch.inference_mode()
def _shard(model: Model, shard: Shard, config: Config) -> bytes:
    rows: dict[tuple[int, float], dict[str, Any]] = {}
    ids = [x.tolist() for x in shard.x_ids]
    for numbers in batches([len(x) for x in ids], 4096):
        ids_BT, mask_BT = pad_right([ids[i] for i in numbers], model)
        with fastest_threads(model), watched(model.network, config.layers, config.experts > 0) as seen:
            model.network.base_model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False)
        for row, i in enumerate(numbers):
            at = shard.targets.position_P[shard.first_N1[i] : shard.first_N1[i + 1]] - 1
            for layer in config.layers:
                router = seen.router.get(layer)
                logits_TE = None if router is None else router.view(*ids_BT.shape, -1)[row]
                rows[i, layer] = _row(i, layer, seen.hidden[layer][row][at].float(), logits_TE, at, config)
    sink = io.BytesIO()
    table = pa.Table.from_pylist([rows[k] for k in sorted(rows)], SCHEMA)
    pq.write_table(table.replace_schema_metadata({"stillhouse.traces": FORMAT}), sink, compression="zstd")
    return sink.getvalue()


def _row(
    example: int, layer: float, hidden_PG: Tensor, logits_TE: Tensor | None, at: NDArray[np.int64], config: Config
) -> dict[str, Any]:
    scale_P = hidden_PG.abs().amax(-1).clamp(min=1e-12)
    steps_PG = (hidden_PG / scale_P[:, None] * 127).round().to(torch.int8)
    row: dict[str, Any] = {
        "example": example, "layer": layer, "scale": scale_P.cpu().numpy(), "experts": [], "logprobs": [],
        "hidden": steps_PG.flatten().cpu().numpy() if config.hidden else [],
    }  # fmt: skip
    if logits_TE is not None:
        logprobs_PE = logits_TE[at].float().log_softmax(-1)
        top_PK, which_PK = logprobs_PE.topk(min(config.experts, logprobs_PE.shape[-1]), -1)
        row |= {"experts": which_PK.flatten().cpu().numpy(), "logprobs": top_PK.flatten().cpu().numpy()}
    return row
