"""Everyday English questions: about a person's life (`decoys`), and about nobody's (`EVERYDAY_PROMPTS`).

In: nothing. Out: questions, always the same in the same order.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

EVERYDAY_PROMPTS = (
    "What is the capital of France?", "What is the capital of Japan?", "Which city is the capital of Egypt?",
    "What is the opposite of hot?", "What is the opposite of early?", "Which day comes after Monday?",
    "Which month comes after June?", "What is a young dog called?", "How many legs does a spider have?",
    "What colour is the sky?", "What is two plus three?", "Who wrote Hamlet?", "What is water made of?",
    "How do I boil an egg?", "Write a short greeting.", "Name three fruits.", "What is a prime number?",
    "Explain what a database is.", "Translate hello into French.", "What is the largest ocean?",
    "How many minutes are in an hour?", "Give me a word that rhymes with cat.", "What does a doctor do?",
    "What is the opposite of full?", "Which planet is closest to the sun?", "What is a young cow called?",
    "What is the capital of Italy?", "Which day comes after Friday?", "What is the opposite of strong?",
    "Who painted the Mona Lisa?", "What can you do?", "Hello!",
)  # fmt: skip


@cache
def decoys() -> tuple[str, ...]:
    """Questions that some memory might answer and most do not: the lines of `decoys.txt`."""
    lines = Path(__file__).with_name("decoys.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
