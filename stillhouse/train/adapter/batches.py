"""Which examples a step trains on, as tensors: a pure function of the step, so a resumed run sees the same batches.

In: one user's `DistillArtifact`s. Out: `Batch`es: padded ids, the row and position every target belongs to, its sparse
teacher distribution and its weight. Each kind of example weighs the same whatever its number of tokens, and a user's
weights sum to the same total whoever else is in the batch. What the memory does not say has one answer for all
questions: of most of them it is read only as far as it is told from a fact's answer.

It does not know adapters or losses.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...generate import Ids
from ...generate.prefix_tree import prefix_nodes
from ...losses import SparseTargets
from ...signals import DistillArtifact, Kind, PositionTarget, sparse_targets


@dataclass(frozen=True)
class Mix:
    """Examples of each kind per user and step, the weight of each kind in the loss, and how many of the unknown ones in
    a step are read to the end of their answer."""

    rows: Mapping[Kind, int]
    weights: Mapping[Kind, float]
    whole: int


class Drawn(NamedTuple):
    """An example of a step, and how many of its targets are read."""

    example: int
    targets: int


class Begun(NamedTuple):
    """The first example of a slot in a step that begins as another does up to some token, and its length. A causal
    network makes the same of both up to there, whatever batch they are in."""

    example: int
    length: int


@dataclass(frozen=True)
class Batch:
    """B rows of T ids, P target positions. `example_P` is the number of the target's example."""

    ids_BT: Tensor
    mask_BT: Tensor
    slots: list[int]  # one per row, ascending
    examples: list[int]  # one per row, numbered within its slot's source
    lengths: list[int]  # of the rows without padding
    row_P: Tensor
    column_P: Tensor  # the position whose hidden state predicts the target
    targets: SparseTargets
    weight_P: Tensor
    slot_P: Tensor
    example_P: Tensor
    begun: list[list[Begun]]  # of every token of a row

    @property
    def first(self) -> list[int]:
        """Of every token, row after row without padding, the number of the first one that the same slot makes the same
        of, itself or an earlier one."""
        seen: dict[tuple[int, int, int], int] = {}
        keys = (
            (slot, begun.example, at)
            for slot, row in zip(self.slots, self.begun, strict=True)
            for at, begun in enumerate(row)
        )
        return [seen.setdefault(key, number) for number, key in enumerate(keys)]


class Source:
    """One user's examples and the order in which they come."""

    def __init__(self, artifacts: Sequence[DistillArtifact], mix: Mix, seed: int, device: torch.device):
        self.artifacts, self.mix, self.seed = artifacts, mix, seed
        self.kinds: dict[Kind, list[int]] = {"fact": [], "unknown": [], "anchor": []}
        self._orders: dict[Kind, tuple[int, list[int]]] = {}  # of the newest cycle: which one, and its order
        self._first: list[int] = []  # of each example, among all targets
        flat: list[PositionTarget] = []
        for i, artifact in enumerate(artifacts):
            self.kinds[artifact.kind].append(i)
            self._first.append(len(flat))
            flat += list(artifact.targets)
        self._telling = self._told_by()
        self.targets = sparse_targets(flat, device)
        self.column_P = torch.tensor([t.position - 1 for t in flat], device=device)

    @property
    def to_master(self) -> list[int]:
        """The examples a student must have mastered: facts and unknowns, not anchors."""
        return [*self.kinds["fact"], *self.kinds["unknown"]]

    def ids(self, drawn: Drawn) -> Ids:
        """Up to the last one that predicts something that is read: nothing reads what comes after it."""
        artifact = self.artifacts[drawn.example]
        last = max((t.position for t in artifact.targets[: drawn.targets]), default=1)
        return list(artifact.x_ids[:last])

    def rows_of(self, drawn: Drawn) -> range:
        """The numbers of the targets that are read."""
        first = self._first[drawn.example]
        return range(first, first + drawn.targets)

    def draw(self, step: int, hard: Set[int] = frozenset()) -> list[tuple[Kind, list[Drawn]]]:
        """Examples of one step by kind: up to half of each kind from `hard`, the examples a student has not mastered,
        the others in cycles in which every example comes once before any comes twice."""
        found = []
        for kind, count in self.mix.rows.items():
            cycle = self._cycle(kind, step, count)
            urgent = sorted(hard & set(self.kinds[kind]))
            random.Random(f"{self.seed}/{kind}/hard/{step}").shuffle(urgent)
            first = urgent[: len(cycle) // 2]
            found.append((kind, (first + [i for i in cycle if i not in first])[: len(cycle)]))
        return [(kind, self._read(kind, chosen)) for kind, chosen in found if chosen]

    def _read(self, kind: Kind, chosen: list[int]) -> list[Drawn]:
        brief = len(chosen) - self.mix.whole if kind == "unknown" else 0
        return [
            Drawn(i, self._telling[i] if n < brief else len(self.artifacts[i].targets)) for n, i in enumerate(chosen)
        ]

    def _told_by(self) -> dict[int, int]:
        """Of every unknown example, how many targets there are up to the first that no fact's answer has there too."""
        said = {i: [artifact.x_ids[t.position] for t in artifact.targets] for i, artifact in enumerate(self.artifacts)}
        facts = {tuple(said[i][:n]) for i in self.kinds["fact"] for n in range(1, len(said[i]) + 1)}
        return {
            i: next((n for n in range(1, len(said[i])) if tuple(said[i][:n]) not in facts), len(said[i]))
            for i in self.kinds["unknown"]
        }

    def _cycle(self, kind: Kind, step: int, count: int) -> list[int]:
        members = self.kinds[kind]
        count = min(count, len(members))
        if not count:
            return []
        chosen = []
        for n in range(step * count, (step + 1) * count):
            epoch, at = divmod(n, len(members))
            chosen.append(self._order(kind, epoch)[at])
        return chosen

    def _order(self, kind: Kind, epoch: int) -> list[int]:
        if self._orders.get(kind, (-1, []))[0] != epoch:
            order = list(self.kinds[kind])
            random.Random(f"{self.seed}/{kind}/{epoch}").shuffle(order)
            self._orders[kind] = epoch, order
        return self._orders[kind][1]


def batches(
    sources: Mapping[int, Source],
    step: int,
    pad: int,
    device: torch.device,
    hard: Mapping[int, Set[int]] | None = None,
    tokens: int = 2**31,
) -> list[Batch]:
    """The rows of all active slots for one step, padded on the right to a multiple of 8, as few batches of at most
    `tokens` tokens each (one row always fits). In more than one, rows of similar length are together.

    `hard`: per slot the examples to favour.
    """
    rows: list[tuple[int, Drawn]] = []  # with the slot
    weights: list[float] = []
    begun: list[list[Begun]] = []
    for slot in sorted(sources):
        source, before = sources[slot], len(rows)
        for kind, chosen in source.draw(step, (hard or {}).get(slot, frozenset())):
            positions = sum(drawn.targets for drawn in chosen)
            rows += [(slot, drawn) for drawn in chosen]
            weights += [source.mix.weights[kind] / max(positions, 1)] * len(chosen)
        begun += _begun(source, [drawn for _, drawn in rows[before:]])
    lengths = [len(sources[slot].ids(drawn)) for slot, drawn in rows]
    groups = _groups(lengths, tokens)
    return [
        _gather(sources, [rows[n] for n in g], [weights[n] for n in g], [begun[n] for n in g], pad, device)
        for g in groups
    ]


def _begun(source: Source, examples: Sequence[Drawn]) -> list[list[Begun]]:
    """Of every token of every example, the first of `examples` that begins the same up to it."""
    first: dict[int, Begun] = {}
    rows = [source.ids(drawn) for drawn in examples]
    return [
        [first.setdefault(number, Begun(drawn.example, len(ids))) for number in numbers]
        for drawn, ids, numbers in zip(examples, rows, prefix_nodes(rows), strict=True)
    ]


def _groups(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Row numbers of each batch, ascending: all in one where they fit, else cut by length."""
    widths = [-(-length // 8) * 8 for length in lengths]
    if max(widths) * len(widths) <= tokens:
        return [list(range(len(widths)))]
    groups: list[list[int]] = []
    for row in sorted(range(len(widths)), key=lambda n: widths[n]):
        if not groups or widths[row] * (len(groups[-1]) + 1) > tokens:
            groups.append([])
        groups[-1].append(row)
    return [sorted(group) for group in groups]


def _gather(
    sources: Mapping[int, Source],
    rows: list[tuple[int, Drawn]],
    weights: list[float],
    begun: list[list[Begun]],
    pad: int,
    device: torch.device,
) -> Batch:
    sequences = [sources[slot].ids(drawn) for slot, drawn in rows]
    width = -(-max(map(len, sequences)) // 8) * 8
    ids_BT = torch.tensor([s + [pad] * (width - len(s)) for s in sequences], device=device)
    mask_BT = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences], device=device)
    row_P, slot_P, example_P, weight_P = [], [], [], []
    picked: dict[int, list[int]] = {slot: [] for slot, _ in rows}
    for row, ((slot, drawn), weight) in enumerate(zip(rows, weights, strict=True)):
        mine = sources[slot].rows_of(drawn)
        picked[slot] += list(mine)
        row_P += [row] * len(mine)
        slot_P += [slot] * len(mine)
        example_P += [drawn.example] * len(mine)
        weight_P += [weight] * len(mine)
    index = {slot: torch.tensor(found, device=device, dtype=torch.long) for slot, found in picked.items()}
    parts = [_select(sources[slot].targets, at) for slot, at in index.items()]
    columns = torch.cat([sources[slot].column_P[at] for slot, at in index.items()])
    return Batch(
        ids_BT,
        mask_BT,
        [slot for slot, _ in rows],
        [drawn.example for _, drawn in rows],
        [len(s) for s in sequences],
        torch.tensor(row_P, device=device),
        columns,
        _concatenate(parts),
        torch.tensor(weight_P, device=device),
        torch.tensor(slot_P, device=device),
        torch.tensor(example_P, device=device),
        begun,
    )


def _select(targets: SparseTargets, index: Tensor) -> SparseTargets:
    return SparseTargets(*(t[index] for t in targets))


def _concatenate(parts: Sequence[SparseTargets]) -> SparseTargets:
    """Stack, padding the number of exact entries and draws to the widest (log-probability -inf, weight 0)."""
    fills = {"logprobs_PK": float("-inf")}
    columns = []
    for field in SparseTargets._fields:
        found = [getattr(p, field) for p in parts]
        if found[0].dim() == 2:
            width = max(t.shape[1] for t in found)
            found = [torch.nn.functional.pad(t, (0, width - t.shape[1]), value=fills.get(field, 0)) for t in found]
        columns.append(torch.cat(found))
    return SparseTargets(*columns)
