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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..capture.prompts import Example
from ..errors import InputError, first_line
from ..records import digest
from ..storage.files import write_atomic
from ..teachers.examples import with_system
from ..text import corpus
from ..text.prompts import Message

ROWS = "messages, prompt (and completion), or text"
PROMPT = "{prompt}"


@dataclass(frozen=True)
class Data:
    """One data set."""

    train: tuple[str, ...] = ()
    """Files in TRL's formats, or `stdlib:N`. Relative paths start at the recipe's folder."""
    held_out: float | tuple[str, ...] = 0.1
    """A share of `train`, 0 to under 1, that students are measured on, or files of their own."""
    limit: int = 0
    """How many examples of `train` are used; 0 for all."""
    corrections: str = ""
    """A `.jsonl` file of more training examples, which `stillhouse audit` adds to. It need not exist. "": none."""

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
    """A data set with a style, which is put around every request for teacher and student."""

    system: str = ""
    """A system message before every request; "" for none."""
    template: str = PROMPT
    """A text with "{prompt}" once, where the request goes."""
    teacher_system: str = ""
    """A system message that only the teacher reads, instead of the recipe's; "" for the recipe's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template.count(PROMPT) != 1:
            raise InputError(f"domain.template: {self.template!r} has to hold {PROMPT} once, where the request goes")

    def style(self, example: Example) -> Example:
        """The example as it is read; running text stays as it is."""
        if example.messages:
            *before, last = example.messages
            styled = [*before, {**last, "content": self.template.replace(PROMPT, last["content"])}]
            return replace(example, messages=tuple(with_system(styled, self.system)))
        if not example.text:
            return example
        text = self.template.replace(PROMPT, example.text)
        return replace(example, text=f"{self.system}\n\n{text}" if self.system else text)


def request_text(example: Example) -> str:
    """What is asked, in short: the last message, or the text."""
    return example.messages[-1]["content"] if example.messages else example.text


def parts(data: Data, folder: Path, seed: int) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples. Corrections are training examples, unless they correct what is held out.

    Relative paths start at `folder`. `InputError` names the file and the row that cannot be used.
    """
    examples = read(data.train, folder)[: data.limit or None]
    if isinstance(data.held_out, tuple):
        train, held_out = examples, read(data.held_out, folder)
    else:
        train, held_out = split(examples, data.held_out, seed)
    if not data.corrections or not (folder / data.corrections).is_file():
        return train, held_out
    kept = {_prompt_key(e) for e in held_out}
    return [*train, *(e for e in read([data.corrections], folder) if _prompt_key(e) not in kept)], held_out


def _prompt_key(example: Example) -> str:
    """Equal for examples that ask the same."""
    return digest([example.messages, example.text])


def read(sources: Sequence[str], folder: Path) -> list[Example]:
    """All examples of all sources, in order. Relative paths start at `folder`.

    `InputError` names the file and the row that cannot be used.
    """
    examples = [example for source in sources for example in _examples(source, folder)]
    if not examples:
        raise InputError(f"data: no examples in {', '.join(sources) or 'nothing'}; give at least one file")
    return examples


def split(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples, both in their order.

    The digest of its content decides where an example goes. So two equal examples never fall apart, and a data set that
    grows keeps its held-out part.
    """
    names = [digest([seed, example]) for example in examples]
    held_out = {name for name in names if int(name[:8], 16) < share * 0x100000000}
    if share and not held_out:
        held_out = {min(names)}
    train = [e for e, name in zip(examples, names, strict=True) if name not in held_out]
    if not train:
        raise InputError(f"data: {len(examples)} examples are too few to hold some out; give more, or held_out = 0")
    return train, [e for e, name in zip(examples, names, strict=True) if name in held_out]


def _examples(source: str, folder: Path) -> Iterator[Example]:
    for number, row in enumerate(_rows(source, folder), 1):
        yield from _row(row, f"{folder / Path(source).expanduser()}: row {number}")


def _rows(source: str, folder: Path) -> Iterator[Any]:
    """The rows of a source. A passage is a row with a text."""
    kind, file = "a data set is .jsonl, .json, .parquet, .txt, or stdlib:N", folder / Path(source).expanduser()
    if source.startswith("stdlib:"):
        number = source.removeprefix("stdlib:")
        if not number.isdigit() or not int(number):
            raise InputError(f"data: {source!r}: say how many passages, for example stdlib:200")
        yield from ({"text": text} for text in corpus.anchors(int(number)))
    elif not file.is_file():
        raise InputError(f"data: {file}: no such file; {kind}")
    elif file.suffix == ".txt":
        yield from ({"text": text.strip()} for text in _text(file).split("\n\n") if text.strip())
    elif file.suffix == ".parquet":
        try:
            yield from pq.read_table(file).to_pylist()
        except pa.ArrowException as error:
            raise InputError(f"data: {file}: not a Parquet file: {first_line(error)}") from error
    elif file.suffix in (".jsonl", ".json"):
        yield from _json_rows(file)
    else:
        raise InputError(f"data: {file}: unknown kind of file; {kind}")


def _json_rows(file: Path) -> Iterator[Any]:
    """The values of a JSON Lines file, or of a JSON file with one value or a list."""
    lines = _text(file).split("\n") if file.suffix == ".jsonl" else [_text(file)]  # JSON may hold other line breaks
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
        return Example(text=prompt, answer=None if completion is None else _string(completion, where))
    messages = _messages(prompt, where)
    if completion is not None and not isinstance(completion, str):
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


def correction(request: Example, answer: str) -> dict[str, Any]:
    """A row `{prompt, completion}`: what is asked, and the teacher's answer."""
    return {"prompt": list(request.messages) or request.text, "completion": answer}


def add(file: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Put rows whose prompt is not there yet at the end of a JSON Lines file, all or none. Returns how many.

    `InputError`: a file that is damaged.
    """
    before = file.read_bytes() if file.exists() else b""
    present = {_key(row) for row in _json_rows(file)} if before else set()
    new = {_key(row): json.dumps(row, ensure_ascii=False) + "\n" for row in rows if _key(row) not in present}
    if new:
        separator = b"" if before.endswith(b"\n") or not before else b"\n"
        write_atomic(file, before + separator + "".join(new.values()).encode())
    return len(new)


def _key(row: dict[str, Any]) -> str:
    """Equal for equal prompts. People may put rows of other kinds into the file, which have none."""
    return json.dumps(row.get("prompt"), sort_keys=True)
