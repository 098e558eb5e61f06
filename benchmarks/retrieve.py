"""How often do the retrieved passages hold the evidence? BM25 on LoCoMo, beside BM25 of words as they stand.

    python benchmarks/retrieve.py [--data FILE] [--k 10]

Recall@k: of the turns that hold a question's evidence, the share among the `k` nearest turns of that conversation,
averaged over questions. LoCoMo is CC BY-NC and not shipped: `--data` is its JSON (default ../shared/data/locomo.json).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import Figure, machine, table
from stillhouse.retrieve import lexical

DATA = Path(__file__).parents[2] / "shared" / "data" / "locomo.json"
Terms = Callable[[str], list[str]]


def conversations(file: Path) -> Iterator[tuple[list[str], list[str], list[dict[str, Any]]]]:
    """(ids of the turns, their texts, questions) per conversation."""
    for sample in json.loads(file.read_text(encoding="utf-8")):
        talk = sample["conversation"]
        turns = [turn for name in talk if re.fullmatch(r"session_\d+", name) for turn in talk[name]]
        yield [t["dia_id"] for t in turns], [f"{t['speaker']}: {t['text']}" for t in turns], sample["qa"]


def recall(file: Path, k: int, terms: Terms) -> tuple[float, int, float]:
    """(mean recall@k, questions, seconds for everything) with one way of making words."""
    lexical.terms, before = terms, lexical.terms
    shares, started = [], time.perf_counter()
    try:
        for ids, texts, questions in conversations(file):
            index, known = lexical.LexicalIndex(texts), set(ids)
            for question in questions:
                evidence = set(question["evidence"]) & known
                if evidence:
                    found = {ids[p.index] for p in index.scored(str(question["question"]), k)}
                    shares.append(len(evidence & found) / len(evidence))
    finally:
        lexical.terms = before
    return fmean(shares), len(shares), time.perf_counter() - started


def plain(text: str) -> list[str]:
    """Words as they stand, in lower case."""
    return re.findall(r"\w+", text.lower())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--k", type=int, default=10)
    args = parser.parse_args()
    print(machine())
    if not args.data.is_file():
        print(f"{args.data}: not there; get LoCoMo's JSON from snap-research/LoCoMo and name it with --data")
        return 0
    base, _, _ = recall(args.data, args.k, plain)
    ours, n, seconds = recall(args.data, args.k, lexical.terms)
    note = f"{n} questions, {seconds:.1f} s in all"
    return table([
        Figure(f"evidence recall@{args.k}, BM25 as it is used", ours, "%", note=note),
        Figure(f"evidence recall@{args.k}, words as they stand", base, "%"),
        Figure("ours against words as they stand", ours / base, "x", target=1.0),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
