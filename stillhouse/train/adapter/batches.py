"""Which examples a step trains on, as tensors.

In: every user's `DistillArtifact`s. Out: `AdapterBatch`es: padded ids, the row and position of every target, its sparse
teacher distribution and its weight. They are a function of the step alone, so a resumed run sees the same batches.
Each kind of example weighs the same whatever its number of tokens, and a user's weights sum to the same total whoever
else is in the batch. All questions that a memory does not answer have the same answer. Most of the time it is read only
up to the token at which it differs from every fact's answer.

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
    """What a step has of each kind."""

    rows: Mapping[Kind, int]
    """Examples per user and step."""
    weights: Mapping[Kind, float]
    """Weight of the kind's mean loss."""
    whole: int
    """Unknown examples of a step that are read to the end of their answer."""


class Drawn(NamedTuple):
    """An example of a step, and how many of its targets are read."""

    example: int
    targets: int


class Begun(NamedTuple):
    """A beginning that examples of a slot share in a step: the first example that has it, and its length in tokens.

    A causal network computes the same for all of them up to there, whatever batch they are in.
    """

    example: int
    length: int


@dataclass(frozen=True)
class AdapterBatch:
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
    begun: list[list[Begun]]  # for every token of a row

    @property
    def first(self) -> list[int]:
        """For every token, row after row without padding, the number of the first token that has the same slot and the
        same beginning: itself or an earlier one."""
        seen: dict[tuple[int, int, int], int] = {}
        keys = (
            (slot, begun.example, at)
            for slot, row in zip(self.slots, self.begun, strict=True)
            for at, begun in enumerate(row)
        )
        return [seen.setdefault(key, number) for number, key in enumerate(keys)]


class ExampleSource:
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
        self._distinctive = self._distinctive_targets()
        self.targets = sparse_targets(flat, device)
        self.column_P = torch.tensor([t.position - 1 for t in flat], device=device)

    @property
    def to_master(self) -> list[int]:
        """The examples a student must have mastered: facts and unknowns, not anchors."""
        return [*self.kinds["fact"], *self.kinds["unknown"]]

    def ids(self, drawn: Drawn) -> Ids:
        """The example's ids up to the last one that predicts a target that is read."""
        artifact = self.artifacts[drawn.example]
        last = max((t.position for t in artifact.targets[: drawn.targets]), default=1)
        return list(artifact.x_ids[:last])

    def rows_of(self, drawn: Drawn) -> range:
        """The numbers of the targets that are read."""
        first = self._first[drawn.example]
        return range(first, first + drawn.targets)

    def draw(self, step: int, hard: Set[int] = frozenset()) -> list[tuple[Kind, list[Drawn]]]:
        """Examples of one step by kind.

        Up to half of each kind come from `hard`, the examples that a student has not mastered. The others come in
        cycles: every example comes once before any comes twice.
        """
        drawn = []
        for kind, count in self.mix.rows.items():
            cycle = self._cycle(kind, step, count)
            urgent = sorted(hard & set(self.kinds[kind]))
            random.Random(f"{self.seed}/{kind}/hard/{step}").shuffle(urgent)
            first = urgent[: len(cycle) // 2]
            drawn.append((kind, (first + [i for i in cycle if i not in first])[: len(cycle)]))
        return [(kind, self._read(kind, chosen)) for kind, chosen in drawn if chosen]

    def _read(self, kind: Kind, chosen: list[int]) -> list[Drawn]:
        cut = len(chosen) - self.mix.whole if kind == "unknown" else 0
        return [
            Drawn(i, self._distinctive[i] if n < cut else len(self.artifacts[i].targets)) for n, i in enumerate(chosen)
        ]

    def _distinctive_targets(self) -> dict[int, int]:
        """For every unknown example, its targets up to the first that differs from all facts' answers."""
        answers = {
            i: [artifact.x_ids[t.position] for t in artifact.targets] for i, artifact in enumerate(self.artifacts)
        }
        facts = {tuple(answers[i][:n]) for i in self.kinds["fact"] for n in range(1, len(answers[i]) + 1)}
        return {
            i: next((n for n in range(1, len(answers[i])) if tuple(answers[i][:n]) not in facts), len(answers[i]))
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
    sources: Mapping[int, ExampleSource],
    step: int,
    pad: int,
    device: torch.device,
    hard: Mapping[int, Set[int]] | None = None,
    tokens: int = 2**31,
) -> list[AdapterBatch]:
    """The rows of all active slots for one step, padded on the right to a multiple of 8.

    They come in as few batches as possible, each of at most `tokens` tokens (one row always fits). Where there are
    several, rows of similar length are together. `hard`: per slot the examples to favour.
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


def _begun(source: ExampleSource, examples: Sequence[Drawn]) -> list[list[Begun]]:
    """For every token of every example, the first of `examples` that begins the same up to it."""
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
    sources: Mapping[int, ExampleSource],
    rows: list[tuple[int, Drawn]],
    weights: list[float],
    begun: list[list[Begun]],
    pad: int,
    device: torch.device,
) -> AdapterBatch:
    sequences = [sources[slot].ids(drawn) for slot, drawn in rows]
    width = -(-max(map(len, sequences)) // 8) * 8
    ids_BT = torch.tensor([s + [pad] * (width - len(s)) for s in sequences], device=device)
    mask_BT = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences], device=device)
    row_P, slot_P, example_P, weight_P = [], [], [], []
    picked: dict[int, list[int]] = {slot: [] for slot, _ in rows}
    for row, ((slot, drawn), weight) in enumerate(zip(rows, weights, strict=True)):
        numbers = sources[slot].rows_of(drawn)
        picked[slot] += list(numbers)
        row_P += [row] * len(numbers)
        slot_P += [slot] * len(numbers)
        example_P += [drawn.example] * len(numbers)
        weight_P += [weight] * len(numbers)
    index = {slot: torch.tensor(rows, device=device, dtype=torch.long) for slot, rows in picked.items()}
    parts = [_select(sources[slot].targets, at) for slot, at in index.items()]
    columns = torch.cat([sources[slot].column_P[at] for slot, at in index.items()])
    return AdapterBatch(
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
        tensors = [getattr(p, field) for p in parts]
        if tensors[0].dim() == 2:
            width = max(t.shape[1] for t in tensors)
            tensors = [torch.nn.functional.pad(t, (0, width - t.shape[1]), value=fills.get(field, 0)) for t in tensors]
        columns.append(torch.cat(tensors))
    return SparseTargets(*columns)
