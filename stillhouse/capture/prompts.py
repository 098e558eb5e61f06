"""Capture a data set: a teacher writes signals on prompts, given answers or running text, once for many students.

In: a model, `Example`s, a folder. Out: the folder: Parquet shards, the teacher's vocabulary as bytes, `capture.json`
(`docs/formats/signals.md`). A shard's name is the digest of everything it is made from, so a killed run is run again
and goes on with the first shard that is missing, and the same inputs give the same bytes.

Targets are the tokens of the answer, its end included; of running text, all but the first. The teacher may read a
system message that the student will not (context distillation). It does not know students.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from .._artifacts_columns import concatenate
from ..artifacts import FORMAT, Kind, Shard, read_shard
from ..blobs import write_atomic
from ..chat import Message
from ..config import as_dict
from ..errors import InputError, StoreError
from ..generate import Sampling, batches, generate
from ..models import Model
from ..records import canonical, digest
from ._sparsify import Spoken, targets

ABOUT = "capture.json"
VOCABULARY = "vocabulary.parquet"
OnStep = Callable[[int, str], None]


@dataclass(frozen=True)
class Example:
    """One row of a data set: `messages` for a chat template, or `text` as it is, and what comes after it.

    `answer` None: the teacher writes it. Without messages and text, the answer is running text.
    """

    messages: tuple[Message, ...] = ()
    text: str = ""
    answer: str | None = None


@dataclass(frozen=True)
class Config:
    """`keep`: entries under this probability are left to the draws. `samples` answers are written per prompt where
    none is given; `temperature` 0 is greedy. `max_tokens`: longest example, 0 for the teacher's context."""

    top_k: int = 8
    draws: int = 4
    keep: float = 1e-3
    teacher_system: str = ""
    max_new_tokens: int = 128
    temperature: float = 0.0
    samples: int = 1
    max_tokens: int = 0
    too_long: Literal["refuse", "skip"] = "refuse"
    shard_examples: int = 256
    batch_tokens: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least, most in _RANGES:
            if not least <= getattr(self, name) <= most:
                allowed = f"{least} to {most}" if most < 1 << 31 else f"at least {least}"
                raise InputError(f"capture.{name}: {getattr(self, name)} is not allowed; it must be {allowed}")
        if self.samples > 1 and not self.temperature:
            raise InputError(
                f"capture.samples: {self.samples} greedy answers are all the same; set capture.temperature"
            )


_RANGES = (
    ("top_k", 1, 255), ("draws", 0, 255), ("keep", 0.0, 0.5), ("max_new_tokens", 1, 1 << 31), ("temperature", 0, 100),
    ("samples", 1, 1 << 31), ("max_tokens", 0, 1 << 31), ("shard_examples", 1, 1 << 31), ("batch_tokens", 1, 1 << 31),
)  # fmt: skip


@dataclass(frozen=True)
class Captured:
    """A finished folder. `skipped` are the numbers of examples that did not fit."""

    folder: Path
    base: str  # fingerprint of the teacher
    teacher: str
    vocabulary: int
    config: dict[str, Any]
    shards: tuple[str, ...]
    examples: int
    positions: int
    skipped: tuple[int, ...] = ()
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
    model: Model, examples: Sequence[Example], config: Config, folder: Path, on_step: OnStep = lambda n, note: None
) -> Captured:
    """Write what is missing in `folder` and return it all. `on_step(n, note)` is told of every `n` examples done.

    Raises `InputError` for no examples, an empty prompt or answer, an example that is too long (unless skipped) and
    names the example; `ModelError` for a teacher whose logits are not numbers.
    """
    if not examples:
        raise InputError("nothing to capture: the data set has no examples")
    folder.mkdir(parents=True, exist_ok=True)
    _write_vocabulary(model, folder / VOCABULARY)
    names, skipped, counted, positions = [], [], 0, 0
    for start in range(0, len(examples), config.shard_examples):
        part = examples[start : start + config.shard_examples]
        prompts, left = _prompts(model, part, start, config)
        skipped += left
        name, n = _shard(model, part, prompts, start, config, folder)
        on_step(len(part), "")
        if n[0]:
            names.append(name)
            counted, positions = counted + n[0], positions + n[1]
    done = Captured(
        folder, model.fingerprint, model.ref, model.vocabulary, as_dict(config), tuple(names), counted, positions,
        tuple(skipped),
    )  # fmt: skip
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


def _shard(
    model: Model, part: Sequence[Example], prompts: dict[int, Spoken], start: int, config: Config, folder: Path
) -> tuple[str, tuple[int, int]]:
    """The name of a shard that is there now, and its examples and positions."""
    key = digest({"base": model.fingerprint, "config": as_dict(config), "examples": list(part), "format": FORMAT,
                  "start": start})  # fmt: skip
    name = f"signals-{key[:32]}.parquet"
    if (there := _read(folder / name, model)) is not None:
        return name, (len(there), len(there.targets))
    spoken = _answered(model, part, prompts, config, int(key[:8], 16))
    if not spoken:
        return name, (0, 0)
    found = _signals(model, spoken, config, int(key[:15], 16))
    write_atomic(folder / name, found.to_bytes())
    return name, (len(found), len(found.targets))


def _read(file: Path, model: Model) -> Shard | None:
    """A shard that is there and whole, or None: it is made again."""
    try:
        found = read_shard(file.read_bytes()) if file.exists() else None
    except StoreError:
        return None
    return found if found is not None and found.about.get("base") == model.fingerprint else None


def _prompts(model: Model, part: Sequence[Example], start: int, config: Config) -> tuple[dict[int, Spoken], list[int]]:
    """What is read of each example that fits, by its number in `part`; and the numbers of those that do not."""
    limit = min(config.max_tokens or model.context, model.context)
    found, skipped = {}, []
    for i, example in enumerate(part):
        spoken = _spoken(model, example, start + i, config)
        length = len(spoken.teacher_prompt) + (len(spoken.answer) if example.answer is not None else 1)
        if length <= limit:
            found[i] = spoken
        elif config.too_long == "skip":
            skipped.append(start + i)
        else:
            raise InputError(
                f"example {start + i + 1} has {length} tokens; the teacher's limit is {limit}: shorten it, or set "
                'capture.too_long = "skip"'
            )
    return found, skipped


def _spoken(model: Model, example: Example, number: int, config: Config) -> Spoken:
    answer = model.text_ids(example.answer) if example.answer is not None else []
    said = bool(example.messages) or bool(example.text)
    if said and not (example.text or example.messages[-1]["content"]).strip():
        raise InputError(f"example {number + 1}: its prompt is empty")
    if example.answer is not None and not example.answer.strip():
        raise InputError(f"example {number + 1}: its {'answer' if said else 'text'} is empty")
    if not said and example.answer is None:
        raise InputError(f"example {number + 1}: neither prompt nor text")
    if not said:
        prompt, answer = (_bos(model), answer) if _bos(model) else (answer[:1], answer[1:])
        if not answer:
            raise InputError(f"example {number + 1}: its text is a single token; there is nothing to learn from it")
        return Spoken(tuple(prompt), tuple(prompt), tuple(answer), _request(example))
    teacher, student = _rendered(model, example, config.teacher_system), _rendered(model, example, "")
    answer = [*answer, *_end(model)] if example.answer is not None else []
    return Spoken(tuple(teacher), tuple(student), tuple(answer), _request(example))


def _request(example: Example) -> str:
    """What a student with another chat template starts from."""
    asked: dict[str, Any] = {"messages": example.messages} if example.messages else {"text": example.text}
    return canonical(asked).decode()


def _rendered(model: Model, example: Example, system: str) -> list[int]:
    if not example.messages:
        return [*_bos(model), *model.text_ids(f"{system}\n\n{example.text}" if system else example.text)]
    first, *rest = example.messages
    if not system:
        messages = list(example.messages)
    elif first["role"] == "system":
        messages = [{"role": "system", "content": f"{system}\n\n{first['content']}"}, *rest]
    else:
        messages = [{"role": "system", "content": system}, *example.messages]
    return model.chat_ids(messages)


def _bos(model: Model) -> list[int]:
    """The token that this tokenizer puts before every text, if it does."""
    first = model.tokenizer.bos_token_id
    put = list(model.tokenizer("a")["input_ids"])[:1]
    return [first] if isinstance(first, int) and put == [first] else []


def _end(model: Model) -> list[int]:
    end = model.tokenizer.eos_token_id
    return [end] if isinstance(end, int) else sorted(model.stop_ids)[:1]


def _answered(
    model: Model, part: Sequence[Example], prompts: dict[int, Spoken], config: Config, seed: int
) -> list[Spoken]:
    """Every example with its answer; those without are answered by the teacher, `samples` times."""
    given = [s for i, s in prompts.items() if part[i].answer is not None]
    asked = [s for i, s in prompts.items() if part[i].answer is None for _ in range(config.samples)]
    if not asked:
        return given
    sampling = Sampling(config.max_new_tokens, config.temperature, seed + config.seed)
    replies = generate(model, [list(s.teacher_prompt) for s in asked], sampling)
    for s, ids in zip(asked, replies, strict=True):
        room = min(config.max_new_tokens, model.context - len(s.teacher_prompt))
        answer = (*ids, *(_end(model) if len(ids) < room else []))
        if answer:
            given.append(replace(s, answer=answer))
    return given


def _signals(model: Model, spoken: Sequence[Spoken], config: Config, seed: int) -> Shard:
    """The teacher's distributions, batch after batch of similar length: the order of the shard's examples."""
    generator = torch.Generator(device=model.device).manual_seed(seed)
    lengths = [len(s.teacher_prompt) + len(s.answer) for s in spoken]
    found, order = [], []
    for rows in batches(lengths, config.batch_tokens):
        some = [spoken[i] for i in rows]
        found.append(targets(model, some, config.top_k, config.draws, config.keep, generator))
        order += some
    about = {"base": model.fingerprint, "vocabulary": str(model.vocabulary), "teacher": model.ref}
    kind: Kind = "prompt"
    return Shard(
        (kind,) * len(order),
        (None,) * len(order),
        tuple(b"".join(model.token_bytes[t] for t in s.x_ids) for s in order),
        tuple(np.array(s.x_ids, np.int64) for s in order),
        np.cumsum([0, *(len(s.answer) for s in order)]),
        concatenate(found),
        about,
        tuple(s.request for s in order),
    )


def _write_vocabulary(model: Model, file: Path) -> None:
    special = {i for i, token in model.tokenizer.added_tokens_decoder.items() if token.special}
    table = pa.table({
        "id": pa.array(range(model.vocabulary), pa.int32()),
        "bytes": pa.array(model.token_bytes, pa.binary()),
        "special": pa.array([i in special for i in range(model.vocabulary)]),
    })  # fmt: skip
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomic(file, sink.getvalue().to_pybytes())
