"""A student with another tokenizer: our chunks of bytes against cut logits and against ULD, on three pairs.

    python benchmarks/distill_tokenizers.py [--steps N] [--seeds N] [--quick]

The teacher is the model that ships; a student has half of its layers and a tokenizer of its own: one that splits
numbers into digits, a small one, and one of bytes. The same examples (running English, and statements with times of
day), batches, steps, learning rate and share of cross-entropy; only the teacher's term differs:

- cut: the i-th token of the answer on one side is compared with the i-th on the other, over the ids both have, which is
  what cutting the logits to the shorter vocabulary does;
- ULD: sorted probabilities of the i-th tokens, their absolute differences times 1.5 (Boizard et al. 2024,
  arXiv 2402.12030);
- ours: likelihoods of chunks, and the distribution where a chunk is one token on both sides.

Measured on passages never trained on: how often the student's first choice is the teacher's where both have the token,
more than before training.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._distill import loaded, signals
from benchmarks._machine import Figure, say, table
from stillhouse.capture.prompts import Config
from stillhouse.distillation.data import read
from stillhouse.distillation.evaluate import measure
from stillhouse.distillation.student import NewTokenizer, Student, build
from stillhouse.errors import InputError
from stillhouse.feeds.aligned import AlignedTokens, TeacherVocabulary
from stillhouse.feeds.same_tokens import Head, padded
from stillhouse.losses import Objective, SparseTargets
from stillhouse.models import Model
from stillhouse.signals import Shard
from stillhouse.teachers.examples import TokenizedExample
from stillhouse.text import corpus
from stillhouse.train import full

PAIRS = {
    "digits split": NewTokenizer(1024, single_digits=True),
    "half the vocabulary": NewTokenizer(1024),
    "bytes": NewTokenizer(300),
}
EXAMPLES = Path(__file__).parents[1] / "examples"
Term = Callable[[Tensor, Tensor], Tensor]


def cut(student_PV: Tensor, teacher_PV: Tensor) -> Tensor:
    """KL over the first ids, as many as both have, nats per position."""
    both = min(student_PV.shape[-1], teacher_PV.shape[-1])
    student_PV, teacher_PV = (x[:, :both].log_softmax(-1) for x in (student_PV, teacher_PV))
    return (teacher_PV.exp() * (teacher_PV - student_PV)).sum(-1)


def uld(student_PV: Tensor, teacher_PV: Tensor) -> Tensor:
    """Absolute differences of sorted probabilities, per position."""
    most = max(student_PV.shape[-1], teacher_PV.shape[-1])
    student_PV, teacher_PV = (
        pad(x.softmax(-1).sort(-1, descending=True).values, (0, most - x.shape[-1])) for x in (student_PV, teacher_PV)
    )
    return 1.5 * (student_PV - teacher_PV).abs().sum(-1)


class Paired:
    """Feed of the same examples in the same student's tokens, the i-th tokens of the answers side by side."""

    def __init__(self, aligned: AlignedTokens, spoken: Sequence[TokenizedExample], teacher: Model, term: Term):
        self.aligned, self.spoken, self.teacher, self.term = aligned, spoken, teacher, term
        self.lengths, self._heard = aligned.lengths, dict[int, Tensor]()
        places = [aligned.batch([i], 0, teacher.device).where()[1] for i in range(len(spoken))]
        self.positions = [min(len(s.answer), len(at)) for s, at in zip(spoken, places, strict=True)]

    def batch(self, numbers: Sequence[int], pad: int, device: torch.device) -> PairedBatch:
        data = self.aligned.batch(numbers, pad, device)
        row_P, at_P = data.where()
        kept_P = torch.cat([torch.arange(len(at_P))[row_P == r][: self.positions[i]] for r, i in enumerate(numbers)])
        teacher_PV = torch.cat([self._said(i) for i in numbers])
        return PairedBatch(data.ids_BT, data.mask_BT, data.targets, row_P[kept_P], at_P[kept_P], teacher_PV, self.term)

    @torch.no_grad()
    def _said(self, i: int) -> Tensor:
        """The teacher's logits at the first answer tokens of an example, asked once."""
        if i in self._heard:
            return self._heard[i]
        s = self.spoken[i]
        ids_BT, _ = padded([torch.tensor(s.x_ids).numpy()], 0, self.teacher.device)
        first = len(s.student_prompt) - 1
        logits_TV: Tensor = self.teacher.network(input_ids=ids_BT).logits[0]
        self._heard[i] = logits_TV[first : first + self.positions[i]].clone()
        return self._heard[i]


@dataclass
class PairedBatch:
    """Positions side by side."""

    ids_BT: Tensor
    mask_BT: Tensor
    targets: SparseTargets
    row_P: Tensor
    at_P: Tensor
    teacher_PV: Tensor
    term: Term

    def where(self) -> tuple[Tensor, Tensor]:
        return self.row_P, self.at_P

    def losses(self, hidden_BTH: Tensor, head: Head, objective: Objective) -> Tensor:
        logits_PV = head(hidden_BTH[self.row_P, self.at_P - 1]).float()
        said_P = cross_entropy(logits_PV, self.ids_BT[self.row_P, self.at_P], reduction="none")
        return objective.alpha * self.term(logits_PV, self.teacher_PV) + (1 - objective.alpha) * said_P


@dataclass(frozen=True)
class Data:
    """Examples that every student can spell, and their signals, one shard each."""

    spoken: list[TokenizedExample]
    shards: list[Shard]

    def aligned(self, teacher: TeacherVocabulary, student: Model) -> AlignedTokens:
        return AlignedTokens(self.shards, teacher, student)


def passages(n: int, held_out: bool) -> list[str]:
    """Running English, and as many statements."""
    prompts = read(["distill_tiny.jsonl"], EXAMPLES)
    told = [str(e.messages[0]["content"]).split("\n\n")[-1] for e in prompts]
    mine = told[: len(told) // 5] if held_out else told[len(told) // 5 :]
    return [*(corpus.held_out(n) if held_out else corpus.anchors(n)), *mine[:n]]


def data(model: Model, told: Sequence[str], teacher: TeacherVocabulary, students: Sequence[Model]) -> Data:
    """The first eight tokens are read, the others learned."""
    spoken, shards = [], []
    for text in told:
        ids = tuple(model.text_ids(text))[:96]
        one = TokenizedExample(ids[:8], ids[:8], ids[8:])
        if len(ids) < 12:
            continue
        shard = signals(model, [one], Config())
        try:
            for student in students:
                AlignedTokens([shard], teacher, student)
        except InputError:
            continue
        spoken.append(one)
        shards.append(shard)
    return Data(spoken, shards)


def student_of(teacher: Model, new: NewTokenizer, told: Sequence[str]) -> Model:
    """Half of the layers, another tokenizer."""
    count = teacher.network.config.get_text_config().num_hidden_layers
    with tempfile.TemporaryDirectory() as folder:
        wanted = Student(layers=tuple(range(count // 2)), new_tokenizer=new)
        return build(wanted, teacher, told, Path(folder, "student"), "cpu", 0)


def gains(
    start: Model, train: Data, held: Data, teacher: tuple[Model, TeacherVocabulary], config: full.Config
) -> dict[str, float]:
    """Agreement after less before, for each way."""
    aligned, asked = (d.aligned(teacher[1], start) for d in (train, held))
    before = measure(start, asked).agreement
    feeds = {"ours": aligned, "cut": Paired(aligned, train.spoken, teacher[0], cut),
             "ULD": Paired(aligned, train.spoken, teacher[0], uld)}  # fmt: skip
    found = {}
    for way, feed in feeds.items():
        student = replace(start, network=copy.deepcopy(start.network))
        full.train(student, feed, config)
        found[way] = measure(student, asked).agreement - before
        say(f"  {way}: agreement {before:.3f} -> {before + found[way]:.3f}")
    return found


def figures(name: str, found: Sequence[dict[str, float]]) -> list[Figure]:
    made = []
    for way in ("cut", "ULD"):
        ahead = statistics.mean(f["ours"] - f[way] for f in found)
        ours, theirs = (statistics.mean(f[w] for f in found) for w in ("ours", way))
        note = f"gain {ours:+.1%}, theirs {theirs:+.1%}, {len(found)} seed(s)"
        made.append(Figure(f"{name}: agreement gained beyond {way}", ahead, "%", 0.0, note=note))
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--alpha", type=float, default=0.5, help="the teacher's share of every loss")
    parser.add_argument("--quick", action="store_true", help="few examples and steps")
    args = parser.parse_args()
    model = loaded("tiny")
    n, steps = (12, 8) if args.quick else (150, args.steps)
    special = [i in model.tokenizer.all_special_ids for i in range(model.vocabulary)]
    teacher = TeacherVocabulary(model.token_bytes, special)
    told = passages(n, held_out=False)
    students = {name: student_of(model, new, told) for name, new in PAIRS.items()}
    wanted = (passages(n, held_out=False), passages(n // 2, held_out=True))
    train, held = (data(model, some, teacher, list(students.values())) for some in wanted)
    made = []
    for name, start in students.items():
        say(name)
        config = full.Config(steps=steps, epochs=1000, learning_rate=1e-3, batch_tokens=1536, mixed="off",
                             objective=Objective(alpha=args.alpha))  # fmt: skip
        found = [gains(start, train, held, (model, teacher), replace(config, seed=s)) for s in range(args.seeds)]
        made += figures(name, found)
    return table(made)


if __name__ == "__main__":
    sys.exit(main())
