"""How small are a data set's signals at a vocabulary of 152k? Stored bytes per target position, and where they go.

    python benchmarks/distill_bytes.py [--model REF] [--positions N]

A model's own distributions on English that it was not trained on, with its ids spread evenly over 151,936 (no real
vocabulary is that unkind to a packer: its frequent tokens have near ids), default settings of `capture.prompts`, the
examples' bytes and ids included. Flat: the worst that can be, a teacher that knows nothing at all.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import Figure, machine, table
from benchmarks.signal_bytes import column_bytes
from stillhouse import artifacts, models
from stillhouse.artifacts import DistillArtifact, position_targets
from stillhouse.capture.prompts import Config
from stillhouse.generate import score
from stillhouse.losses import sparsify
from stillhouse.texts import held_out

VOCABULARY = 151_936


def spread(logprobs_PV: torch.Tensor, name_V: torch.Tensor) -> torch.Tensor:
    """The same distributions over a vocabulary of 152k."""
    wide_PV = torch.full((len(logprobs_PV), VOCABULARY), -torch.inf)
    wide_PV[:, name_V] = logprobs_PV
    return wide_PV


def real(model: models.Model, positions: int, config: Config) -> list[DistillArtifact]:
    """Examples of running text, with the model's distribution at every token."""
    generator = torch.Generator().manual_seed(0)
    name_V = torch.randperm(VOCABULARY, generator=generator)[: model.vocabulary]
    texts = [t[:400] for t in held_out(positions // 60)]
    sequences = [model.text_ids(t) for t in texts]

    def reduce(i: int, logits_TV: torch.Tensor) -> DistillArtifact:
        ids = sequences[i]
        wide_PV = spread(torch.log_softmax(logits_TV[:-1], -1), name_V)
        sparse = sparsify(wide_PV, config.top_k, config.draws, generator, config.keep)
        targets = position_targets(sparse, range(1, len(ids)), offsets(model, ids)[1:-1])
        return DistillArtifact("prompt", None, texts[i].encode(), tuple(name_V[ids].tolist()), tuple(targets))

    return score(model, sequences, reduce)


def offsets(model: models.Model, ids: list[int]) -> list[int]:
    found = [0]
    for i in ids:
        found.append(found[-1] + len(model.token_bytes[i]))
    return found


def flat(positions: int, config: Config) -> list[DistillArtifact]:
    """A teacher of random logits over 152k tokens: 11.4 nats of entropy."""
    generator = torch.Generator().manual_seed(1)
    targets = []
    for start in range(0, positions, 200):
        logprobs_PV = torch.log_softmax(torch.randn(200, VOCABULARY, generator=generator), -1)
        sparse = sparsify(logprobs_PV, config.top_k, config.draws, generator)
        targets += position_targets(sparse, range(start + 1, start + 201), range(4 * start, 4 * (start + 200), 4))
    x_ids = torch.randint(VOCABULARY, (positions + 1,), generator=generator).tolist()
    return [DistillArtifact("prompt", None, b"word" * positions, tuple(x_ids), tuple(targets))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--positions", type=int, default=1500)
    args = parser.parse_args()
    config, model = Config(), models.load(args.model)
    print(machine())
    figures = []
    for name, made, target in (
        ("the model's distributions", real(model, args.positions, config), 40.0),
        ("flat distributions, nothing left out", flat(400, config), None),
    ):
        shard = artifacts.write(made, {})
        positions = sum(len(a.targets) for a in made)
        entries = sum(len(t.ids) + len(t.draw_ids) for a in made for t in a.targets) / positions
        note = f"{positions} positions, {entries:.1f} entries and draws each"
        figures.append(
            Figure(f"stored bytes per target position, {name}", len(shard) / positions, "B", target, False, note=note)
        )
        parts = ", ".join(f"{n} {size / positions:.1f}" for n, size in column_bytes(shard).most_common(8))
        print(f"  {name}: {parts}")
    return table(figures)


if __name__ == "__main__":
    sys.exit(main())
