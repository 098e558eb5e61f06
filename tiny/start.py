"""The start of the model that ships: `python -m tiny.start OUT`. Deterministic given the machine's arithmetic.

In: the model, memories of the world it was trained on (words and values of training's kind only: what is examined with
is unseen) and plain generated notes. Out: OUT/start by Reptile (`reptile.py`); `start.json` says the plan and the
loss of every round.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import replace
from pathlib import Path

from stillhouse import consolidation

from . import reptile
from .train import SEED
from .world import World, make_memory

WORLD, PLAIN = 144, 48  # memories of each kind
PLAN = reptile.Plan(rounds=29, parts=6, steps=30)
TRAIN = replace(
    consolidation.DEFAULTS.train, unknown_weight=0.7
)  # more than a student's: not knowing is what all share


def memories() -> dict[str, str]:
    """By name, the two kinds in turns, so that every part has its share of both."""
    found = reptile.generated(range(WORLD + PLAIN))
    for number, name in enumerate(found):
        if number % 8 not in (3, 4):
            rng = random.Random(f"{SEED}/start/{number}")
            found[name] = make_memory(rng, World(), rng.randint(8, 12), 4, 0.3).text
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    began = time.monotonic()
    settings = replace(consolidation.DEFAULTS, train=TRAIN)
    losses = reptile.prime(
        memories(), args.out / "start", home=args.out, settings=settings, plan=PLAN, show=True, workers=0
    )
    print(f"losses {losses}, {(time.monotonic() - began) / 60:.0f} minutes -> {args.out / 'start'}")


if __name__ == "__main__":
    main()
