"""Several devices, one process each, as `torchrun` starts them.

In: torchrun's environment. Out: `Ranks`, and a network whose weights are shared out over the processes (FSDP2, after
Zhao et al. 2023, arXiv 2304.11277). Every micro-batch is cut into as many parts as there are processes, so a step sees
the same examples, and a checkpoint fits, however many there are.

It does not know losses, optimisers or files.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel

R = TypeVar("R")
PATIENCE = timedelta(days=7)  # one process captures or measures while the others wait


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` of `world`."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that reads, measures and writes for all."""
        return self.rank == 0

    def part(self, numbers: Sequence[int]) -> list[int]:
        """This process's part of a micro-batch; it may be empty."""
        return list(numbers[self.rank :: self.world])

    def add(self, value: Tensor) -> Tensor:
        """The sum over all processes, in place, on the value's device."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def in_turn(self, make: Callable[[], R]) -> R:
        """`make`, by the first process alone; then by the others, who find what it made."""
        if not self.first:
            self.wait()
            return make()
        made = make()
        self.wait()
        return made

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()


def ranks() -> Ranks:
    """Joins the processes that `torchrun` started; alone without it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or not dist.is_available():
        return Ranks()
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    return Ranks(dist.get_rank(), dist.get_world_size())


def spread(network: PreTrainedModel, device: torch.device, here: Ranks) -> PreTrainedModel:
    """A copy of `network` whose layers are shared out over the processes, each whole only while it computes.

    `network` itself goes to the CPU and keeps its weights.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    shared = cast(PreTrainedModel, copy.deepcopy(cast(nn.Module, network).to("cpu")))
    mesh = init_device_mesh(device.type, (here.world,))
    for layer in cast(Any, shared).get_decoder().layers:
        fully_shard(layer, mesh=mesh)
    return shared


def spread_rest(module: nn.Module, device: torch.device, here: Ranks) -> None:
    """Share out what is in no layer (embeddings, norms, the head); whole from the first use to the end of a step."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(module, mesh=init_device_mesh(device.type, (here.world,)), reshard_after_forward=False)


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its parts; every process has to ask."""
    return cast(Tensor, tensor.full_tensor()) if hasattr(tensor, "full_tensor") else tensor


@torch.no_grad()
def put(into: Tensor, values: Tensor) -> None:
    """Copy a whole tensor into one that may be shared out."""
    into.copy_(like(into, values))


def like(into: Tensor, values: Tensor) -> Tensor:
    """A whole tensor with the device, type and parts of `into`."""
    if not hasattr(into, "full_tensor"):
        return values.to(into)
    from torch.distributed.tensor import distribute_tensor

    shared: Any = into
    moved = values.to(shared.device, shared.dtype)
    return distribute_tensor(moved, shared.device_mesh, shared.placements, src_data_rank=None)
