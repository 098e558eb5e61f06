"""The adapters of a batch whose rows go on from step to step: what the bank asks of them.

`GatheredAdapters` do it by torch's operators, on any device; `PackedAdapters` by the package's kernel, on a CPU. Both
see in the first forward which targets read the same input (q, k and v; gate and up), and give those one product with A.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from .sites import Site

Fill = tuple[int, int]  # a slot, and how often it had been filled: one adapter that was in it
Run = tuple[int, int]  # a slot, and how many neighbouring tokens use it


class BatchAdapters(Protocol):
    """Without gradients. For each forward `assign` comes first, then `add` at every dense target, then `finish`."""

    @property
    def shared(self) -> bool:
        """Whether several batches can take turns with it at no cost."""

    @property
    def runs(self) -> Sequence[Run]:
        """The runs of the forward that was assigned last."""

    def assign(self, slots: Sequence[int], runs: Sequence[Run] = ()) -> None:
        """Row i of the next forward uses slot `slots[i]`; -1 is the base alone. With `runs` the forward is over one
        flat row: a token of each row, then the tokens of each run."""

    def prepare(self, slot: int) -> None:
        """A slot has been filled anew: copy it now, where that can be done ahead."""

    def add(self, site: Site, x: Tensor, out: Tensor) -> Tensor | None:
        """`out + scale * B A x`, in place where the types allow; x `[..., in]` and out `[..., out]` in row order. None:
        these tensors are not for it."""

    def finish(self) -> None:
        """After a forward: no input is kept."""


def group_by_input(sites: Sequence[Site], inputs: Sequence[tuple[Site, Tensor]]) -> list[list[Site]]:
    """Sites that were given the same input. `inputs`: each site's, in the order of the calls; a site that was called
    twice belongs to its first input, and one that was never called is alone."""
    by_input: dict[int, list[Site]] = {}
    called: set[Site] = set()
    for site, x in inputs:
        if site not in called:
            by_input.setdefault(id(x), []).append(site)
            called.add(site)
    return [*by_input.values(), *([site] for site in sites if site not in called)]
