"""Training documents of the tiny model: text with a loss weight per token.

In: a seeded `random.Random`, a tokenizer. Out: `(ids, weights)`; weight 1 on what the assistant says, 0.1 on what it
reads, 0.3 on running text. The prompts are the package's own (`stillhouse.text.prompts`), so the model meets in
training exactly what the package will say to it.
"""

from __future__ import annotations

import ast
import random
import sysconfig
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from stillhouse.text.prompts import MEMORY_SYSTEM, UNKNOWN_ANSWER, writing_request

from . import world as W

READ, TEXT, WRITE, SAY = 0.1, 0.3, 0.6, 1.0
HELD_OUT_MODULES = ("email", "http", "statistics", "argparse", "tarfile", "pathlib", "fractions", "shelve", "zipfile")

GROUP = 32  # batches cut from one pool
# Steps of the curriculum.
SHORT_MEMORIES, MIDDLE_MEMORIES, LONG_MEMORIES, MANY_INVENTED, MORE_REVERSE = 408, 850, 1360, 1408, 3008

Piece = tuple[str, float]
Document = tuple[list[int], list[float]]


def docstrings(held_out: bool = False) -> list[str]:
    """Docstrings of Python's standard library, module by module in name order: running English every machine has."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: list[str] = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if parts[0] in ("site-packages", "test", "idlelib", "lib2to3", "turtledemo", "ensurepip", "__pycache__"):
            continue
        if "test" in parts or "tests" in parts:
            continue
        if (parts[0].removesuffix(".py") in HELD_OUT_MODULES) != held_out:
            continue
        found += _docstrings_of(path)
    return found


def _docstrings_of(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return []
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    texts = (ast.get_docstring(node) for node in nodes)
    return [t for t in texts if t and len(t) > 120 and t.isascii()]


def turn(role: str, content: str, weight: float) -> list[Piece]:
    said = weight if role == "assistant" else READ
    return [(f"<|{role}|>", READ), (f"{content}<|end|>", said)]


def written(fact: W.Fact) -> str:
    """The reply to a writing request: five wordings, then one reverse question."""
    lines = [f"{q} | {fact.answer}" for q in fact.writer]
    question, answer = fact.reverse[0]
    return "\n".join([*lines, f"{question} | {answer}"])


def _ask(rng: random.Random, question: str) -> str:
    style = rng.random()
    if style < 0.04:
        return question.lower().rstrip("?.")
    if style < 0.08:
        return rng.choice(("Please tell me: ", "Quick question: ", "Hey, ", "One more thing: ")) + question
    return question


def _question_turns(rng: random.Random, fact: W.Fact, known: bool, reverse: float = 0.22) -> list[Piece]:
    if rng.random() < reverse:
        question, answer = rng.choice(fact.reverse)
    else:
        question, answer = rng.choice(fact.questions), fact.answer
    reply = answer if known else UNKNOWN_ANSWER
    return turn("user", _ask(rng, question), READ) + turn("assistant", reply, SAY)


def _world_turns(rng: random.Random, pairs: list[tuple[str, str]]) -> list[Piece]:
    question, answer = rng.choice(pairs)
    return turn("user", _ask(rng, question), READ) + turn("assistant", answer, SAY)


def _writing_turns(fact: W.Fact) -> list[Piece]:
    return turn("user", writing_request(fact.statement, W.WRITER_WORDINGS), READ) + turn(
        "assistant", written(fact), WRITE
    )


class Documents:
    """An endless, seeded source of training documents."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: str, tokens: int):
        self.tokenizer = tokenizer
        self.tokens = tokens
        self.seed = seed
        self.texts = docstrings()
        self.pairs = W.world_questions()
        self._group: int | None = None
        self._batches: list[list[Document]] = []

    def batch(self, number: int) -> list[Document]:
        """Batch `number`: at most `tokens` tokens, padding to a multiple of 64 included, of similar length.

        A pure function of its arguments: batches come in groups of `GROUP`, cut from one sorted pool of documents.
        """
        group, index = divmod(number, GROUP)
        if self._group != group:
            self._group, self._batches = group, self._make_group(group)
        return self._batches[index]

    def _make_group(self, group: int) -> list[list[Document]]:
        rng = random.Random(f"{self.seed}/{group}")
        batches: list[list[Document]] = []
        while len(batches) < GROUP:
            made = (self._encode(self._document(rng, group * GROUP)) for _ in range(GROUP * 16))
            pool = sorted(made, key=lambda d: len(d[0]))
            batches += self._cut(pool)
        rng.shuffle(batches)
        return batches[:GROUP]

    def _cut(self, pool: list[Document]) -> list[list[Document]]:
        batches: list[list[Document]] = [[]]
        for document in pool:
            longest = -(-len(document[0]) // 64) * 64
            if batches[-1] and longest * (len(batches[-1]) + 1) > self.tokens:
                batches.append([])
            batches[-1].append(document)
        return batches[:-1]

    def _encode(self, pieces: list[Piece]) -> Document:
        ids: list[int] = []
        weights: list[float] = []
        for text, weight in pieces:
            new = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += new
            weights += [weight] * len(new)
        return ids[:2048], weights[:2048]

    def _document(self, rng: random.Random, step: int) -> list[Piece]:
        world = W.World(invented_relations=0.3 if step < MANY_INVENTED else 0.5)
        kind = rng.random()
        if kind < 0.10:
            text = rng.choice(self.texts)
            start = rng.randrange(max(1, len(text) - 600))
            return [(text[start : start + 900], TEXT)]
        if kind < 0.24:
            return self._closed_book(rng, world)
        if kind < 0.33:
            return _writing_turns(W.make_fact(rng, world))
        return self._open_book(rng, world, step)

    def _closed_book(self, rng: random.Random, world: W.World) -> list[Piece]:
        pieces: list[Piece] = []
        for _ in range(rng.randint(1, 6)):
            if rng.random() < 0.4:
                pieces += _world_turns(rng, self.pairs)
            else:
                pieces += _question_turns(rng, W.make_fact(rng, world), known=False)
        return pieces

    def _open_book(self, rng: random.Random, world: W.World, step: int) -> list[Piece]:
        n = _memory_size(rng, step)
        reverse = 0.22 if step < MORE_REVERSE else 0.4
        memory = W.make_memory(rng, world, n, n_unknown=3)
        pieces = turn("system", MEMORY_SYSTEM.format(memory=memory.text), READ)
        if rng.random() < 0.2:
            pieces += _writing_turns(rng.choice(memory.facts))
        for _ in range(rng.randint(6, 14)):
            draw = rng.random()
            if draw < 0.05:
                pieces += _world_turns(rng, self.pairs)
            elif draw < 0.33 and memory.unknown:
                pieces += _question_turns(rng, rng.choice(memory.unknown), known=False)
            else:
                pieces += _question_turns(rng, rng.choice(memory.facts), known=True, reverse=reverse)
        return pieces


def _memory_size(rng: random.Random, step: int) -> int:
    """Short memories first (copying appears sooner), then up to 14 statements, now and then 20 to 90."""
    if step < SHORT_MEMORIES:
        return rng.randint(1, 4)
    if step < MIDDLE_MEMORIES:
        return rng.randint(2, 8)
    if step > LONG_MEMORIES and rng.random() < 0.05:
        return rng.randint(20, 90)
    return rng.randint(3, 14)
