"""How small are a data set's signals at a vocabulary of 152k? Stored bytes per target position, and where they go.

    python benchmarks/distill_bytes.py [--model REF] [--positions N]

A model's own distributions on English that it was not trained on, with its ids spread evenly over 151,936 (no real
vocabulary is that unkind to a packer: its frequent tokens have near ids), default settings of `capture.prompts`, the
examples' bytes and ids included. Flat: the worst that can be, a teacher that knows nothing at all.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._distill import signals
from benchmarks._machine import Figure, machine, table
from benchmarks.signal_bytes import column_bytes
from stillhouse import models
from stillhouse.capture.prompts import Config
from stillhouse.signals import Shard
from stillhouse.signals.columns import concatenate, from_sparse
from stillhouse.signals.sparsify import sparsify_logits
from stillhouse.teachers.examples import TokenizedExample
from stillhouse.text.corpus import held_out

VOCABULARY = 151_936


def real(model: models.Model, positions: int, config: Config) -> Shard:
    """Running text, with the model's distribution at every token but the first."""
    found = [tuple(model.text_ids(t[:400])) for t in held_out(positions // 60)]
    shard = signals(model, [TokenizedExample(ids[:1], ids[:1], ids[1:]) for ids in found], config)
    name_V = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(0))[: model.vocabulary].numpy()
    named = replace(shard.targets, ids=name_V[shard.targets.ids], draw_ids=name_V[shard.targets.draw_ids])
    return replace(shard, x_ids=tuple(name_V[ids] for ids in shard.x_ids), targets=named)


def flat(positions: int, config: Config) -> Shard:
    """A teacher of random logits over 152k tokens: 11.4 nats of entropy."""
    generator = torch.Generator().manual_seed(1)
    targets = []
    for start in range(0, positions, 200):
        kept, normaliser_P = sparsify_logits(
            torch.randn(200, VOCABULARY, generator=generator), config.sparsity, generator
        )
        at_P = np.arange(start + 1, start + 201)
        targets.append(from_sparse(kept, at_P, 4 * at_P - 4, -normaliser_P.numpy()))
    x_ids = torch.randint(VOCABULARY, (positions + 1,), generator=generator).numpy()
    places = np.array([0, positions])
    return Shard(("prompt",), (None,), (b"word" * positions,), (x_ids,), places, concatenate(targets), {})


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
        ("flat distributions", flat(400, config), None),
    ):
        stored, kept = made.to_bytes(), made.targets
        positions = len(kept)
        entries, draws = len(kept.ids) / positions, len(kept.draw_ids) / positions
        note = f"{positions} positions, {entries:.1f} entries and {draws:.1f} draws each"
        figures.append(
            Figure(f"stored bytes per target position, {name}", len(stored) / positions, "B", target, False, note=note)
        )
        parts = ", ".join(f"{n} {size / positions:.1f}" for n, size in column_bytes(stored).most_common(9))
        print(f"  {name}: {parts}")
    return table(figures)


if __name__ == "__main__":
    sys.exit(main())
