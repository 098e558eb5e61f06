"""Capture a data set: a teacher writes signals on prompts, given answers or running text, once for many students.

In: a teacher (`teachers/local.py`, `teachers/endpoint.py`), `Example`s, a folder. Out: the folder: Parquet shards, the
teacher's vocabulary as bytes, `capture.json` (`docs/formats/signals.md`). A shard's name is the digest of everything it
is made from, so a killed run is run again and goes on with the first shard that is missing, and the same inputs give
the same bytes.

Targets are the tokens of the answer, its end included; of running text, all but the first; or those of them that
`positions` chooses. The teacher may read a system message that the student will not (context distillation). It does
not know students.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...config import as_dict
from ...errors import InputError, StoreError
from ...models import Model
from ...records import canonical, digest
from ...signals import FORMAT, Kind, Shard, read_shard
from ...storage.files import write_atomic
from ...teachers.examples import Example, Spoken, fitting
from ...teachers.local import Local, Said, Teacher
from ...teachers.settings import Config, Positions

__all__ = ["ABOUT", "Captured", "Config", "Example", "Positions", "capture", "load"]

ABOUT = "capture.json"
VOCABULARY = "vocabulary.parquet"
OnStep = Callable[[int, str], None]


@dataclass(frozen=True)
class Captured:
    """A finished folder. `skipped` are the numbers of examples that did not fit; `tail`: what the shards know of the
    mass outside their exact entries, "sampled" draws or the "mass" alone."""

    folder: Path
    base: str  # fingerprint of the teacher
    teacher: str
    vocabulary: int
    config: dict[str, Any]
    shards: tuple[str, ...]
    examples: int
    positions: int
    skipped: tuple[int, ...] = ()
    tail: str = "sampled"
    format: str = field(default=FORMAT)

    def read(self) -> Iterator[Shard]:
        """Shard after shard. `StoreError`: missing, damaged, or of another teacher."""
        for name in self.shards:
            try:
                found = read_shard((self.folder / name).read_bytes())
            except FileNotFoundError as error:
                raise StoreError(f"{self.folder / name}: missing; capture again to make it") from error
            except StoreError as error:
                raise StoreError(f"{self.folder / name}: {error}; delete it and capture again") from error
            if found.about.get("base") != self.base:
                raise StoreError(
                    f"{self.folder / name}: of another teacher than {ABOUT} says; delete it and capture again"
                )
            yield found

    def tokens(self) -> list[bytes]:
        """What every id of the teacher's vocabulary stands for."""
        return self._column("bytes")

    def special(self) -> list[bool]:
        """Which ids of the teacher's vocabulary are special tokens."""
        return self._column("special")

    def _column(self, name: str) -> list[Any]:
        try:
            return list(pq.read_table(self.folder / VOCABULARY).column(name).to_pylist())
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"{self.folder / VOCABULARY}: cannot be read; capture again to make it") from error


def capture(
    teacher: Model | Teacher,
    examples: Sequence[Example],
    config: Config,
    folder: Path,
    on_step: OnStep = lambda n, note: None,
) -> Captured:
    """Write what is missing in `folder` and return it all. `on_step(n, note)` is told of every `n` examples done.

    Raises `InputError` for no examples, an empty prompt or answer, an example that is too long (unless skipped) and
    names the example; `ModelError` for a teacher whose logits are not numbers, or an endpoint that does not answer or
    cannot be believed.
    """
    if not examples:
        raise InputError("nothing to capture: the data set has no examples")
    teacher = Local.of(teacher) if isinstance(teacher, Model) else teacher
    folder.mkdir(parents=True, exist_ok=True)
    _write_vocabulary(teacher, folder / VOCABULARY)
    made = []
    for shard in parts(examples, config):
        made.append(make(teacher, shard, config, folder))
        on_step(len(shard.examples), "")
    there = [m for m in made if m.examples]
    done = Captured(
        folder, teacher.fingerprint, teacher.words.ref, teacher.vocabulary, json.loads(canonical(as_dict(config))),
        tuple(m.name for m in there), sum(m.examples for m in there), sum(m.positions for m in there),
        tuple(n for m in made for n in m.skipped), teacher.tail,
    )  # fmt: skip
    if not config.positions.all and not done.positions and len(done.skipped) < len(examples):
        raise InputError("capture.positions: chooses no position of any answer; widen it, or leave it out")
    write_atomic(folder / ABOUT, canonical({k: v for k, v in as_dict(done).items() if k != "folder"}))
    return done


def load(folder: Path) -> Captured:
    """A folder that `capture` finished. `StoreError` when it is not one."""
    try:
        raw = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        found = Captured(folder, **(raw | {k: tuple(raw[k]) for k in ("shards", "skipped")}))
    except FileNotFoundError as error:
        raise StoreError(f"{folder}: no {ABOUT}: no finished capture; run `stillhouse capture` on it again") from error
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{folder / ABOUT}: damaged ({error}); delete it and capture again") from error
    if found.format != FORMAT:
        raise StoreError(f"{folder / ABOUT} has format {found.format!r}; this version reads {FORMAT!r}")
    return found


@dataclass(frozen=True)
class Part:
    """The examples of one shard, and the number of the first."""

    start: int
    examples: Sequence[Example]


@dataclass(frozen=True)
class Made:
    """A shard that is there, and which of its examples were too long for it."""

    name: str
    examples: int
    positions: int
    skipped: Collection[int]


def parts(examples: Sequence[Example], config: Config) -> list[Part]:
    """What goes into which shard."""
    size = config.shard_examples
    return [Part(start, examples[start : start + size]) for start in range(0, len(examples), size)]


def make(teacher: Teacher, part: Part, config: Config, folder: Path) -> Made:
    """One shard, made where it is missing; a function of its inputs, whoever calls it."""
    prompts, skipped = fitting(teacher.words, part.examples, part.start, config)
    key = digest({"base": teacher.fingerprint, "config": as_dict(config), "examples": list(part.examples),
                  "format": FORMAT, "start": part.start})  # fmt: skip
    name = f"signals-{key[:32]}.parquet"
    found = _read(folder / name, teacher)
    if found is None:
        given = [s for i, s in prompts.items() if part.examples[i].answer is not None]
        asked = [s for i, s in prompts.items() if part.examples[i].answer is None for _ in range(config.samples)]
        kept = folder / f"asked-{key[:32]}.jsonl"
        found = _shard(teacher, teacher.signals(given, asked, config, key, kept))
        if len(found):
            write_atomic(folder / name, found.to_bytes())
        kept.unlink(missing_ok=True)
    return Made(name, len(found), len(found.targets), skipped)


def _read(file: Path, teacher: Teacher) -> Shard | None:
    """A shard that is there and whole, or None: it is made again."""
    try:
        found = read_shard(file.read_bytes()) if file.exists() else None
    except StoreError:
        return None
    return found if found is not None and found.about.get("base") == teacher.fingerprint else None


def _shard(teacher: Teacher, said: Said) -> Shard:
    """What was said as columns; examples without a chosen position are left out."""
    spoken: list[Spoken] = [s for s, n in zip(said.spoken, said.counts_N, strict=True) if n]
    table = teacher.words.token_bytes
    about = {"base": teacher.fingerprint, "vocabulary": str(teacher.vocabulary), "teacher": teacher.words.ref}
    kind: Kind = "prompt"
    return Shard(
        (kind,) * len(spoken),
        (None,) * len(spoken),
        tuple(b"".join(table[t] for t in s.x_ids) for s in spoken),
        tuple(np.array(s.x_ids, np.int64) for s in spoken),
        np.cumsum([0, *said.counts_N[said.counts_N > 0]]),
        said.targets,
        about | ({} if teacher.tail == "sampled" else {"tail": teacher.tail}),
        tuple(s.request for s in spoken),
    )


def _write_vocabulary(teacher: Teacher, file: Path) -> None:
    words = teacher.words
    special = {i for i, token in words.tokenizer.added_tokens_decoder.items() if token.special}
    table = pa.table({
        "id": pa.array(range(teacher.vocabulary), pa.int32()),
        "bytes": pa.array(words.token_bytes[: teacher.vocabulary], pa.binary()),
        "special": pa.array([i in special for i in range(teacher.vocabulary)]),
    })  # fmt: skip
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomic(file, sink.getvalue().to_pybytes())
