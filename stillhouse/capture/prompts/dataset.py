"""Capture a data set: a teacher writes signals on prompts, given answers or running text, once for many students.

In: a teacher (`teachers/local.py`, `teachers/endpoint.py`), `Example`s, a folder. Out: the folder, with Parquet shards,
the teacher's vocabulary as bytes, and `capture.json` (`docs/formats/signals.md`). A shard's name is the digest of its
inputs. So the same inputs give the same bytes, and a killed run goes on with the first shard that is missing.

Targets are the tokens of an answer, its end token included, or all tokens of running text but the first; `positions`
can choose some of them. The teacher may read a system message that the student does not read (context distillation).
This module does not know students.
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
from ...teachers.examples import Example, fitting
from ...teachers.local import Local, Teacher, TeacherSignals
from ...teachers.settings import Config, Positions

__all__ = ["ABOUT", "Captured", "Config", "Example", "Positions", "capture", "load"]

ABOUT = "capture.json"
VOCABULARY = "vocabulary.parquet"
OnStep = Callable[[int, str], None]


@dataclass(frozen=True)
class Captured:
    """A finished folder. `skipped`: the numbers of the examples that were too long. `tail`: what the shards hold of the
    mass outside the exact entries, "sampled" draws or the "mass" alone."""

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
                shard = read_shard((self.folder / name).read_bytes())
            except FileNotFoundError as error:
                raise StoreError(f"{self.folder / name}: missing; capture again to make it") from error
            except StoreError as error:
                raise StoreError(f"{self.folder / name}: {error}; delete it and capture again") from error
            if shard.about.get("base") != self.base:
                raise StoreError(
                    f"{self.folder / name}: of another teacher than {ABOUT} says; delete it and capture again"
                )
            yield shard

    def tokens(self) -> list[bytes]:
        """The bytes of every id of the teacher's vocabulary."""
        return self._column("bytes")

    def special(self) -> list[bool]:
        """For every id of the teacher's vocabulary, whether it is a special token."""
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
    """Write the shards that are missing in `folder`; return the whole. `on_step(n, note)` is called after each shard of
    `n` examples.

    `InputError`: there are no examples; the prompt or answer of one is empty, or it is too long and is not to be
    skipped. `ModelError`: the teacher's logits are not numbers; an endpoint does not answer, or sends what cannot be
    true.
    """
    if not examples:
        raise InputError("nothing to capture: the data set has no examples")
    teacher = Local.of(teacher) if isinstance(teacher, Model) else teacher
    folder.mkdir(parents=True, exist_ok=True)
    _write_vocabulary(teacher, folder / VOCABULARY)
    all_written = []
    for shard in parts(examples, config):
        all_written.append(make(teacher, shard, config, folder))
        on_step(len(shard.examples), "")
    written = [w for w in all_written if w.examples]
    done = Captured(
        folder, teacher.fingerprint, teacher.text_model.ref, teacher.vocabulary, json.loads(canonical(as_dict(config))),
        tuple(w.name for w in written), sum(w.examples for w in written), sum(w.positions for w in written),
        tuple(n for w in all_written for n in w.skipped), teacher.tail,
    )  # fmt: skip
    if not config.positions.all and not done.positions and len(done.skipped) < len(examples):
        raise InputError("capture.positions: chooses no position of any answer; widen it, or leave it out")
    write_atomic(folder / ABOUT, canonical({k: v for k, v in as_dict(done).items() if k != "folder"}))
    return done


def load(folder: Path) -> Captured:
    """A folder that `capture` finished. `StoreError` when it is not one."""
    try:
        raw = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        captured = Captured(folder, **(raw | {k: tuple(raw[k]) for k in ("shards", "skipped")}))
    except FileNotFoundError as error:
        raise StoreError(f"{folder}: no {ABOUT}: no finished capture; run `stillhouse capture` on it again") from error
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{folder / ABOUT}: damaged ({error}); delete it and capture again") from error
    if captured.format != FORMAT:
        raise StoreError(f"{folder / ABOUT} has format {captured.format!r}; this version reads {FORMAT!r}")
    return captured


@dataclass(frozen=True)
class ShardExamples:
    """The examples that go into one shard, and the number of the first."""

    start: int
    examples: Sequence[Example]


@dataclass(frozen=True)
class WrittenShard:
    """A shard in the folder, and the numbers of the examples that were too long for it."""

    name: str
    examples: int
    positions: int
    skipped: Collection[int]


def parts(examples: Sequence[Example], config: Config) -> list[ShardExamples]:
    """The examples, cut into shards."""
    size = config.shard_examples
    return [ShardExamples(start, examples[start : start + size]) for start in range(0, len(examples), size)]


def make(teacher: Teacher, part: ShardExamples, config: Config, folder: Path) -> WrittenShard:
    """One shard, written where it is missing. Its bytes depend on the arguments alone, whichever process writes it."""
    prompts, skipped = fitting(teacher.text_model, part.examples, part.start, config)
    key = digest({"base": teacher.fingerprint, "config": as_dict(config), "examples": list(part.examples),
                  "format": FORMAT, "start": part.start})  # fmt: skip
    name = f"signals-{key[:32]}.parquet"
    shard = _read(folder / name, teacher)
    if shard is None:
        given = [s for i, s in prompts.items() if part.examples[i].answer is not None]
        asked = [s for i, s in prompts.items() if part.examples[i].answer is None for _ in range(config.samples)]
        kept = folder / f"asked-{key[:32]}.jsonl"
        shard = _shard(teacher, teacher.signals(given, asked, config, key, kept))
        if len(shard):
            write_atomic(folder / name, shard.to_bytes())
        kept.unlink(missing_ok=True)
    return WrittenShard(name, len(shard), len(shard.targets), skipped)


def _read(file: Path, teacher: Teacher) -> Shard | None:
    """The shard in `file`; None where it is missing, damaged or another teacher's, and has to be written again."""
    try:
        shard = read_shard(file.read_bytes()) if file.exists() else None
    except StoreError:
        return None
    return shard if shard is not None and shard.about.get("base") == teacher.fingerprint else None


def _shard(teacher: Teacher, signals: TeacherSignals) -> Shard:
    """The signals as columns, without examples that have no chosen position."""
    examples = [e for e, n in zip(signals.examples, signals.counts_N, strict=True) if n]
    table = teacher.text_model.token_bytes
    about = {"base": teacher.fingerprint, "vocabulary": str(teacher.vocabulary), "teacher": teacher.text_model.ref}
    kind: Kind = "prompt"
    return Shard(
        (kind,) * len(examples),
        (None,) * len(examples),
        tuple(b"".join(table[t] for t in e.x_ids) for e in examples),
        tuple(np.array(e.x_ids, np.int64) for e in examples),
        np.cumsum([0, *signals.counts_N[signals.counts_N > 0]]),
        signals.targets,
        about | ({} if teacher.tail == "sampled" else {"tail": teacher.tail}),
        tuple(e.request for e in examples),
    )


def _write_vocabulary(teacher: Teacher, file: Path) -> None:
    text_model = teacher.text_model
    special = {i for i, token in text_model.tokenizer.added_tokens_decoder.items() if token.special}
    table = pa.table({
        "id": pa.array(range(teacher.vocabulary), pa.int32()),
        "bytes": pa.array(text_model.token_bytes[: teacher.vocabulary], pa.binary()),
        "special": pa.array([i in special for i in range(teacher.vocabulary)]),
    })  # fmt: skip
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomic(file, sink.getvalue().to_pybytes())
