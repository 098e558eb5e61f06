"""Memories for benchmarks, from the world the shipped model was trained on: unseen relation words, seeds of their own.

In: a seed and a size. Out: `tiny.world.Memory`s no training document and no evaluation contains. It does not know what
they are used for.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tiny.world import Memory, World, make_facts, make_memory


def memory(seed: str, sizes: tuple[int, int] = (8, 12), unknown: int = 4, noise: float = 0.3) -> Memory:
    """One memory of `sizes[0]` to `sizes[1]` statements; `unknown` facts are close to them and not stated."""
    rng = random.Random(f"benchmarks/{seed}")
    return make_memory(rng, World(unseen=True), rng.randint(*sizes), unknown, noise)


def users(name: str, n: int, **shape: int | float | tuple[int, int]) -> dict[str, Memory]:
    """`n` users with a memory each; the first k are the same for every n >= k."""
    return {f"{name}-{i:02d}": memory(f"{name}/{i}", **shape) for i in range(n)}  # type: ignore[arg-type]


def long_text(seed: str, tokens: int, count: Callable[[str], int]) -> tuple[str, list[str]]:
    """As many statements as fit into `tokens`, one per line, and one question about each."""
    rng = random.Random(f"benchmarks/{seed}")
    lines: list[str] = []
    questions: list[str] = []
    for fact in make_facts(rng, World(unseen=True), max(8, tokens // 8)):
        if count("\n".join([*lines, fact.statement])) > tokens:
            break
        lines.append(fact.statement)
        questions.append(rng.choice(fact.questions))
    return "\n".join(lines), questions
