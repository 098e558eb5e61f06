"""Data sets as people have them: TRL's formats, in JSON Lines, JSON or Parquet, and plain text.

In: paths. Out: `Example`s. A row is `{"messages": […]}` (every answer of the assistant becomes an example, with what
was said before it), `{"prompt": …, "completion": …}` (texts, or lists of messages), `{"prompt": …}` alone (the teacher
writes the answer) or `{"text": …}`. Other columns are ignored. A `.txt` file has a passage between empty lines;
`stdlib:N` are N passages of running English that every machine has (`text/corpus.py`).

A `Domain` is a data set with a prompt style: what is put around every request before teacher and student read it. It
does not know models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..capture.prompts import Example
from ..errors import InputError
from ..records import digest
from ..text import corpus
from ..text.prompts import Message

ROWS = "messages, prompt (and completion), or text"
PROMPT = "{prompt}"


@dataclass(frozen=True)
class Data:
    """`train`: files in TRL's formats, or `stdlib:N`. `held_out`: a share of it, or files of their own. `corrections`:
    a file that `stillhouse audit` adds to, read where it is there and never held out. `limit`: examples, 0 for all."""

    train: tuple[str, ...] = ()
    held_out: float | tuple[str, ...] = 0.1
    limit: int = 0
    corrections: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.held_out, tuple) and not 0 <= self.held_out < 1:
            raise InputError(f"data.held_out: {self.held_out} is not a share from 0 to under 1, or a list of files")
        if self.limit < 0:
            raise InputError(f"data.limit: {self.limit} is not allowed; at least 0, which is all")
        if self.corrections and not self.corrections.endswith(".jsonl"):
            raise InputError(f"data.corrections: {self.corrections!r} is added to line by line: a .jsonl file")

    def style(self, example: Example) -> Example:
        """The example as it is read: a data set without a style leaves it as it is."""
        return example


@dataclass(frozen=True)
class Domain(Data):
    """Data with a style. `system` goes before every request and `template` around it ("{prompt}"), for teacher and
    student; `teacher_system` is a system message that only the teacher reads, instead of the recipe's."""

    system: str = ""
    template: str = PROMPT
    teacher_system: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template.count(PROMPT) != 1:
            raise InputError(f"domain.template: {self.template!r} has to hold {PROMPT} once, where the request goes")

    def style(self, example: Example) -> Example:
        """The example as it is read; running text stays as it is."""
        if example.messages:
            *before, last = example.messages
            said = (*before, {**last, "content": self.template.replace(PROMPT, last["content"])})
            return replace(example, messages=with_system(said, self.system))
        if not example.text:
            return example
        text = self.template.replace(PROMPT, example.text)
        return replace(example, text=f"{self.system}\n\n{text}" if self.system else text)


def with_system(messages: Sequence[Message], system: str) -> tuple[Message, ...]:
    """`messages` with `system` as their system message, or at the head of the one they have."""
    if not system:
        return tuple(messages)
    first, *rest = messages
    if first["role"] == "system":
        return ({"role": "system", "content": f"{system}\n\n{first['content']}"}, *rest)
    return ({"role": "system", "content": system}, *messages)


def parts(data: Data, folder: Path, seed: int) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples, corrections among the former unless they correct what is held out."""
    found = read(data.train, folder)
    found = found[: data.limit] if data.limit else found
    if isinstance(data.held_out, tuple):
        train, held = found, read(data.held_out, folder)
    else:
        train, held = split(found, data.held_out, seed)
    if not data.corrections or not (folder / data.corrections).is_file():
        return train, held
    asked = {digest([e.messages, e.text]) for e in held}
    corrected = read([data.corrections], folder)
    return [*train, *(e for e in corrected if digest([e.messages, e.text]) not in asked)], held


def read(sources: Sequence[str], folder: Path) -> list[Example]:
    """All examples of all sources, in order. Relative paths are looked up from `folder`.

    `InputError` names the file and the row that cannot be used.
    """
    found: list[Example] = []
    for source in sources:
        found += list(_examples(source, folder))
    if not found:
        raise InputError(f"data: no examples in {', '.join(sources) or 'nothing'}; give at least one file")
    return found


def split(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples. Which is which is decided by the digest of its content: two equal examples never
    fall apart, and a data set that grows keeps its held-out part."""
    names = [digest([seed, example]) for example in examples]
    held = {i for i, name in enumerate(names) if int(name[:8], 16) < share * 0x100000000}
    if share and not held:
        held = {i for i, name in enumerate(names) if name == min(names)}
    kept = [e for i, e in enumerate(examples) if i not in held]
    if not kept:
        raise InputError(f"data: {len(examples)} examples are too few to hold some out; give more, or held_out = 0")
    return kept, [examples[i] for i in sorted(held)]


def _examples(source: str, folder: Path) -> Iterator[Example]:
    if source.startswith("stdlib:"):
        number = source.removeprefix("stdlib:")
        if not number.isdigit() or not int(number):
            raise InputError(f"data: {source!r}: say how many passages, for example stdlib:200")
        yield from (Example(answer=text) for text in corpus.anchors(int(number)))
        return
    file = folder / Path(source).expanduser()
    if not file.is_file():
        raise InputError(f"data: {file}: no such file; a data set is .jsonl, .json, .parquet, .txt, or stdlib:N")
    if file.suffix == ".txt":
        passages = _text(file).split("\n\n")
        yield from (Example(answer=p.strip()) for p in passages if p.strip())
        return
    for at, row in enumerate(_rows(file), 1):
        yield from _row(row, f"{file}: row {at}")


def _rows(file: Path) -> Iterator[Any]:
    if file.suffix == ".parquet":
        try:
            yield from pq.read_table(file).to_pylist()
        except pa.ArrowException as error:
            raise InputError(f"data: {file}: not a Parquet file: {str(error).splitlines()[0]}") from error
        return
    if file.suffix not in (".jsonl", ".json"):
        raise InputError(
            f"data: {file}: unknown kind of file; a data set is .jsonl, .json, .parquet, .txt, or stdlib:N"
        )
    lines = _text(file).splitlines() if file.suffix == ".jsonl" else [_text(file)]
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                value = json.loads(line)
            except ValueError as error:
                raise InputError(f"data: {file}: line {number} is not JSON: {error}") from error
            yield from value if file.suffix == ".json" and isinstance(value, list) else [value]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"data: {file}: not UTF-8 at byte {error.start}; convert it first") from error


def _row(row: Any, where: str) -> Iterator[Example]:
    if not isinstance(row, Mapping):
        raise InputError(f"data: {where}: {row!r:.40} is not an object with {ROWS}")
    given = {k: v for k, v in row.items() if v is not None}
    if "messages" in given:
        yield from _conversation(_messages(given["messages"], where), where)
    elif "prompt" in given:
        yield _prompted(given["prompt"], given.get("completion"), where)
    elif "text" in given:
        yield Example(answer=_string(given["text"], where))
    else:
        raise InputError(f"data: {where}: has {', '.join(map(str, row)) or 'nothing'}; a row has {ROWS}")


def _conversation(messages: tuple[Message, ...], where: str) -> Iterator[Example]:
    """An example per answer; one that ends before the answer is left to the teacher."""
    answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    if any(i == 0 for i in answers):
        raise InputError(f"data: {where}: the conversation begins with the assistant; somebody has to ask first")
    yield from (Example(messages[:i], answer=messages[i]["content"]) for i in answers)
    if messages[-1]["role"] != "assistant":
        yield Example(messages)


def _prompted(prompt: Any, completion: Any, where: str) -> Example:
    if isinstance(prompt, str):
        answer = completion if completion is None else _string(completion, where)
        return Example(text=prompt, answer=answer)
    messages = _messages(prompt, where)
    if completion is None:
        return Example(messages)
    if not isinstance(completion, str):
        *more, last = _messages(completion, where)
        messages, completion = (*messages, *more), last["content"]
    return Example(messages, answer=completion)


def _messages(value: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise InputError(f"data: {where}: {value!r:.40} is not a list of messages")
    for m in value:
        if not isinstance(m, Mapping) or not isinstance(m.get("role"), str) or not isinstance(m.get("content"), str):
            raise InputError(f'data: {where}: {m!r:.40} is not a message {{"role": …, "content": text}}')
    return tuple({"role": m["role"], "content": m["content"]} for m in value)


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"data: {where}: {value!r:.40} is not text")
    return value
