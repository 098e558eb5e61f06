"""Several data sets at once: what each asks, what the teacher said, and one feed over all of them.

In: a recipe's domains with the signals captured on each. Out: `Lesson`s; a feed whose examples know which lesson they
are of, so that one specialist per domain is trained in the same batches; the specialists loaded again; the summary.

It does not know what a domain is about: domains are data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ..capture.prompts import Captured, Example
from ..config import as_dict
from ..errors import InputError, StoreError
from ..export import peft
from ..feeds.aligned import AlignedTokens, Teacher
from ..feeds.same_tokens import Feed, SameTokens
from ..lora import AdapterBank, LoraConfig
from ..models import Model, align
from ..records import canonical
from ..storage.files import write_atomic
from .data import Data
from .result import REPORT, Distilled
from .summary import summary


@dataclass(frozen=True)
class Lesson:
    """One data set, or one domain of several, as people ask it (`train`, `held`), with the teacher's signals."""

    name: str  # of the domain, "" where there is one data set
    data: Data
    train: Sequence[Example]
    held: Sequence[Example]
    taught: Captured
    asked: Captured

    def shown(self, most: int) -> list[Example]:
        """Held-out requests in the domain's style; of running text its first words."""
        asked = [e for e in self.held if e.messages or e.text] or [opening(e) for e in self.held]
        return [self.data.style(e) for e in asked[:most]]


def opening(example: Example) -> Example:
    """The first words of running text, to be gone on with."""
    words = (example.answer or "").split()
    return Example(text=" ".join(words[: max(1, min(8, len(words) // 2))]))


def feed_of(model: Model, signals: Sequence[Captured]) -> tuple[Feed, list[int]]:
    """All signals as what `model` trains on, and for every example of the feed which of the signals it is from."""
    if empty := [s for s in signals if not s.examples]:
        raise InputError(
            f"{empty[0].folder}: none of its examples is left, {len(empty[0].skipped)} were too long: raise "
            "capture.max_tokens or give shorter ones"
        )
    tokens = signals[0].tokens()
    shards = list(chain.from_iterable(s.read() for s in signals))
    owners = [i for i, s in enumerate(signals) for _ in range(s.examples)]
    if align.same_vocabulary(tokens, model.token_bytes):
        return SameTokens(shards, model.vocabulary, model.context), owners
    if any(any(s.config.get("positions", {}).values()) for s in signals):
        raise InputError(
            "capture.positions: a student with another tokenizer is trained on whole answers; capture all positions "
            "for it"
        )
    aligned = AlignedTokens(shards, Teacher(tokens, signals[0].special()), model)
    return aligned, [owners[i] for i in aligned.kept]


def said_of(name: str, model: Model, feed: Feed) -> str:
    """What is done about a tokenizer that is not the teacher's, as one line; nothing where it is."""
    if not isinstance(feed, AlignedTokens):
        return ""
    left = f"; {feed.skipped} examples cannot be spelt and are left out" if feed.skipped else ""
    return (
        f"{name}: {model.ref} has another tokenizer than the teacher: it learns the likelihood of chunks of bytes, and "
        f"distributions where a chunk is one token on both sides ({feed.single:.0%} of them){left}\n"
    )


def adapters(folder: Path) -> dict[str, Path]:
    """Where the specialists of a finished student lie, by domain."""
    try:
        raw = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        return {d["domain"]: folder / d["folder"] / "adapter" for d in raw["domains"]}
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{folder}: no finished specialists; run `stillhouse distill` on the recipe first") from error


def bank_of(model: Model, folders: Sequence[Path], lora: LoraConfig) -> AdapterBank:
    """The adapters in PEFT folders, one slot each, on `model`."""
    bank = AdapterBank(model.network, len(folders), lora)
    try:
        for slot, folder in enumerate(folders):
            bank.load(slot, *peft.read(folder))
    except BaseException:
        bank.detach()
        raise
    return bank


def write_summary(
    folder: Path, done: Sequence[Distilled], losses: Sequence[Sequence[float]], router: Mapping[str, Any] | None,
    settings: Mapping[str, Any], lessons: Sequence[Lesson],
) -> None:  # fmt: skip
    """`report.html` and `report.json` over all domains; the latter says that the student is finished."""
    found = {
        "name": done[0].name, "domains": list(_rows(done, losses, lessons)), "router": router,
        "settings": dict(settings), "parameters": done[0].parameters,
        "teacher_parameters": done[0].teacher_parameters,
    }  # fmt: skip
    write_atomic(folder / "report.html", summary(found).encode())
    write_atomic(folder / REPORT, canonical(found))


def _rows(
    done: Sequence[Distilled], losses: Sequence[Sequence[float]], lessons: Sequence[Lesson]
) -> Iterator[dict[str, Any]]:
    for one, curve, lesson in zip(done, losses, lessons, strict=True):
        about = {"folder": one.folder.name, "signals": str(lesson.taught.folder)}
        yield as_dict(one) | about | {"losses": [round(x, 5) for x in curve]}
