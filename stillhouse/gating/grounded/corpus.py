"""Passages that a student is shown and has to cite, and the retriever that searches them.

In: a JSONL file of `{"id", "text", "source"}` objects, a text file, or a folder of text files. The paragraphs of a text
file are its passages. The caller also gives the retriever, because retrieval is a later stage. Out: a `Corpus`, or
`InputError` naming the place and what is wrong.

It does not know questions, nor what makes a passage evidence (`gating/grounded/evidence.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from ...errors import InputError
from ...records import digest

_KEYS = {"id", "text", "source"}
_PARAGRAPHS = re.compile(r"\n\s*\n")


class SearchHit(Protocol):
    """One passage that a search gives back."""

    @property
    def index(self) -> int:
        """The passage's place among those indexed, from 0."""

    @property
    def score(self) -> float:
        """How well the passage fits; larger is better."""


class SearchIndex(Protocol):
    """A retriever over passages."""

    def scored(self, query: str, k: int = 10) -> Sequence[SearchHit]:
        """At most `k` hits, best first."""


Indexer = Callable[[Sequence[str]], SearchIndex]


@dataclass(frozen=True)
class CorpusPassage:
    """One passage of a corpus."""

    id: str
    text: str
    source: str = ""  # the document that it comes from


@dataclass(frozen=True)
class Corpus:
    """Passages in their order, and a function that makes the retriever over them."""

    passages: tuple[CorpusPassage, ...]
    indexer: Indexer = field(repr=False, compare=False)

    @cached_property
    def index(self) -> SearchIndex:
        """The retriever over these passages; it is built once."""
        return self.indexer([p.text for p in self.passages])

    @cached_property
    def texts(self) -> Mapping[str, str]:
        """The text of every passage, by its id."""
        return {p.id: p.text for p in self.passages}

    @property
    def digest(self) -> str:
        """Digest of the passages; the file they came from does not count."""
        return digest(list(self.passages))

    def search(self, question: str, k: int) -> list[tuple[CorpusPassage, float]]:
        """At most `k` passages for a question, best first. Scores are relative to the best one's, more than 0 to 1."""
        hits = self.index.scored(question, k)
        best = max((h.score for h in hits), default=0.0)
        return [(self.passages[h.index], h.score / best) for h in hits if h.score > 0]

    def without(self, removed: Collection[str]) -> Corpus:
        """The same corpus without the passages of these ids."""
        return Corpus(tuple(p for p in self.passages if p.id not in removed), self.indexer)


def read_corpus(path: Path | str, indexer: Indexer) -> Corpus:
    """The corpus of a JSONL file, a text file or a folder of text files.

    Raises `InputError` where the path is missing, where a file is not UTF-8 or has a row without a text, where an id
    comes twice, and where there is no passage at all.
    """
    file = Path(path).expanduser()
    files = (
        sorted(p for p in file.rglob("*") if p.is_file() and not p.name.startswith(".")) if file.is_dir() else [file]
    )
    passages = [
        p for one in files for p in _passages(one, one.relative_to(file).as_posix() if one != file else one.name)
    ]
    if not passages:
        raise InputError(f"{path}: no passages in it; a corpus is JSONL of id, text and source, or text files")
    seen: set[str] = set()
    for passage in passages:
        if passage.id in seen:
            raise InputError(f"{path}: the passage id {passage.id!r:.80} comes twice; a citation would be ambiguous")
        seen.add(passage.id)
    return Corpus(tuple(passages), indexer)


def _passages(file: Path, name: str) -> list[CorpusPassage]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}; a corpus is a file or a folder") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 at byte {error.start}; convert it first") from error
    if file.suffix == ".jsonl":
        lines = enumerate(text.splitlines(), 1)
        return [_row(line, f"{file}: line {number}", name) for number, line in lines if line.strip()]
    parts = [part.strip() for part in _PARAGRAPHS.split(text)]
    return [CorpusPassage(f"{name}#{n}", part, name) for n, part in enumerate((p for p in parts if p), 1)]


def _row(line: str, where: str, name: str) -> CorpusPassage:
    try:
        row: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON: {error.msg}; one object a line") from error
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: {row!r:.60} is no passage; it needs an id and a text")
    if extra := sorted(set(row) - _KEYS):
        raise InputError(f"{where}: unknown keys {', '.join(extra)}; allowed: {', '.join(sorted(_KEYS))}")
    values = {"source": name, **row}
    for key in sorted(_KEYS):
        value = values.get(key)
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{where}: the {key} is {value!r:.60}; it must be a text that is not empty")
    return CorpusPassage(values["id"], values["text"], values["source"])
