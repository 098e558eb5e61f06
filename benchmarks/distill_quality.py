"""What is lost by storing a few numbers per position? The same student on sparse signals and on whole distributions.

    python benchmarks/distill_quality.py [--seeds N] [--model REF] [--quick]

Student: half of the model's layers, all weights trained, on running English. Four ways, the same batches in the same
order: the whole distribution; what `capture` stores by default (exact entries, tail, draws), as it is read from a
shard; and the likeliest entries alone, as many as take the same bytes, with the tail dropped or scaled to sum to one.
Measured on passages of other modules against the whole distributions of the teacher: KL, and the expected calibration
error, where the accuracy of a choice is the teacher's probability of it. A seed is another order and other draws.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._distill import loaded, signals
from benchmarks._machine import Figure, say, table
from stillhouse import models
from stillhouse.capture.prompts import Config
from stillhouse.distillation.student import Student, build
from stillhouse.feeds.same_tokens import SameBatch, SameTokens
from stillhouse.generate import head
from stillhouse.losses import Objective, SparseTargets, Tail, dense_forward_kl
from stillhouse.models import Model
from stillhouse.signals import read_shard
from stillhouse.teachers.examples import TokenizedExample
from stillhouse.text import corpus
from stillhouse.train import full

BINS = 10
WAYS: dict[str, Tail] = {
    "dense": "drop",
    "sparse": Objective().tail,
    "tail dropped": "drop",
    "renormalised": "renormalise",
}
ALONE = Config(top_k=12, draws=0)  # the bytes of the default setting without draws


class Whole(SameTokens):
    """The same examples with the teacher's whole distribution at every target."""

    def __init__(self, feed: SameTokens, teacher: Model):
        self.__dict__ |= feed.__dict__
        self._teacher = teacher

    def batch(self, numbers: Sequence[int], pad: int, device: torch.device) -> SameBatch:
        data = super().batch(numbers, pad, device)
        logprobs_PV = distributions(self._teacher, data)
        ids_PV = torch.arange(logprobs_PV.shape[-1], device=device).expand_as(logprobs_PV)
        none = logprobs_PV.new_zeros(len(logprobs_PV), 0)
        return SameBatch(data.ids_BT, data.mask_BT, *data.where(),
                         SparseTargets(ids_PV, logprobs_PV, none.sum(-1), none.long(), none, none))  # fmt: skip


@torch.no_grad()
def distributions(model: Model, data: SameBatch) -> Tensor:
    """Log-probabilities at the targets of a batch, `[P, V]`."""
    row_P, at_P = data.where()
    hidden_BTH = model.network.base_model(
        input_ids=data.ids_BT, attention_mask=data.mask_BT, use_cache=False
    ).last_hidden_state
    logprobs_PV: Tensor = head(model)(hidden_BTH[row_P, at_P - 1]).float().log_softmax(-1)
    return logprobs_PV


@dataclass(frozen=True)
class Held:
    """A student on held-out text. `ece` in points, `sure` is mean confidence less mean accuracy, in points."""

    kl: float
    ece: float
    sure: float
    agreement: float


def measured(student: Model, teacher: Model, feed: SameTokens) -> Held:
    """Exact, over the whole vocabulary."""
    rows = []
    for i in range(0, len(feed.lengths), 16):
        data = feed.batch(range(i, min(i + 16, len(feed.lengths))), 0, student.device)
        ours_PV, theirs_PV = distributions(student, data), distributions(teacher, data)
        sure_P, choice_P = ours_PV.max(-1)
        right_P = theirs_PV.gather(-1, choice_P[:, None])[:, 0].exp()
        agree_P = (choice_P == theirs_PV.argmax(-1)).float()
        rows.append(torch.stack([dense_forward_kl(ours_PV, theirs_PV), sure_P.exp(), right_P, agree_P]))
    kl_P, sure_P, right_P, agree_P = torch.cat(rows, -1).double()
    bin_P = (sure_P * BINS).long().clamp(max=BINS - 1)
    gap_B = torch.zeros(BINS, dtype=torch.double).index_add(0, bin_P, sure_P - right_P)
    ece, sure = float(gap_B.abs().sum()) / len(kl_P), float((sure_P - right_P).mean())
    return Held(float(kl_P.mean()), 100 * ece, 100 * sure, float(agree_P.mean()))


@dataclass(frozen=True)
class Trial:
    """What all ways share."""

    teacher: Model
    student: Model
    train: list[TokenizedExample]
    held: SameTokens
    config: full.Config

    def run(self, way: str, seed: int) -> Held:
        """One student, trained from the same start."""
        student = replace(self.student, network=copy.deepcopy(self.student.network))
        stored = Config() if way in ("dense", "sparse") else ALONE
        feed = feed_of(self.teacher, self.train, replace(stored, seed=seed))
        objective = Objective(tail=WAYS[way])
        chosen = Whole(feed, self.teacher) if way == "dense" else feed
        full.train(student, chosen, replace(self.config, seed=seed, objective=objective))
        return measured(student, self.teacher, self.held)


def feed_of(teacher: Model, spoken: Sequence[TokenizedExample], config: Config) -> SameTokens:
    stored = signals(teacher, spoken, config).to_bytes()
    return SameTokens([read_shard(stored)], teacher.vocabulary, teacher.context)


def spoken_of(model: Model, passages: Sequence[str], most: int) -> list[TokenizedExample]:
    """Running text: every token but the first is a target."""
    found = [tuple(model.text_ids(t))[:most] for t in passages]
    return [TokenizedExample(ids[:1], ids[:1], ids[1:]) for ids in found if len(ids) > 1]


def half(teacher: Model) -> Model:
    """Every second layer of the teacher."""
    count = teacher.network.config.get_text_config().num_hidden_layers
    with tempfile.TemporaryDirectory() as folder:
        student = Student(layers=tuple(range(0, count, 2)))
        return build(student, teacher, [], Path(folder, "student"), "cpu", 0)


def figures(found: dict[str, list[Held]]) -> list[Figure]:
    def mean(way: str, what: str) -> float:
        return statistics.mean(getattr(h, what) for h in found[way])

    made = []
    for way in list(WAYS)[1:]:
        bound = way == "sparse"
        pairs = zip(found[way], found["dense"], strict=True)
        apart = statistics.mean(abs(a.ece - b.ece) for a, b in pairs)
        note = f"KL {mean(way, 'kl'):.4f}, dense {mean('dense', 'kl'):.4f}, {len(found[way])} seeds"
        made.append(Figure(f"{way}: held-out KL over dense", mean(way, "kl") / mean("dense", "kl") - 1, "%%",
                           0.02 if bound else None, False, note=note))  # fmt: skip
        note = (
            f"ECE {mean(way, 'ece'):.2f} points, dense {mean('dense', 'ece'):.2f}; too sure by {mean(way, 'sure'):.2f}"
        )
        made.append(Figure(f"{way}: ECE away from dense, points", apart, "", 0.3 if bound else None, False, note=note))
    worse = min(mean(way, "kl") for way in ("tail dropped", "renormalised")) - mean("sparse", "kl")
    return [*made, Figure("KL: without the tail over sparse, nats", worse, "", 0.0)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--quick", action="store_true", help="one seed, few passages")
    args = parser.parse_args()
    teacher = loaded(args.model)
    n, most = (40, 64) if args.quick else (200, 128)
    train, held = (spoken_of(teacher, draw(n), most) for draw in (corpus.anchors, corpus.held_out))
    config = full.Config(epochs=args.epochs, learning_rate=1e-3, batch_tokens=1024, mixed="off")
    trial = Trial(teacher, half(teacher), train, feed_of(teacher, held[: n // 2], Config()), config)
    found: dict[str, list[Held]] = {way: [] for way in WAYS}
    for seed in range(1 if args.quick else args.seeds):
        for way in WAYS:
            found[way].append(trial.run(way, seed))
            say(f"seed {seed}, {way}: {found[way][-1]}")
    return table(figures(found))


if __name__ == "__main__":
    sys.exit(main())
