"""What a teacher reads of an example, and what the student will read instead.

In: `Example`s, a tokenizer with its chat template. Out: `Spoken`, in token ids. The teacher may read a system message
that the student will not. It does not know logits or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from transformers import PreTrainedTokenizerFast

from ..errors import InputError
from ..records import canonical
from ..text.prompts import Message
from .settings import Config


class Words(Protocol):
    """The tokenizer's side of a model; `models.Model` is one."""

    @property
    def ref(self) -> str: ...
    @property
    def tokenizer(self) -> PreTrainedTokenizerFast: ...
    @property
    def stop_ids(self) -> frozenset[int]: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def token_bytes(self) -> list[bytes]: ...

    def chat_ids(self, messages: Sequence[Message]) -> list[int]: ...

    def text_ids(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Example:
    """One row of a data set: `messages` for a chat template, or `text` as it is, and what comes after it.

    `answer` None: the teacher writes it. Without messages and text, the answer is running text.
    """

    messages: tuple[Message, ...] = ()
    text: str = ""
    answer: str | None = None


@dataclass(frozen=True)
class Spoken:
    """What the teacher reads (`prompt` and `answer`) and what the student will read instead of `prompt`."""

    teacher_prompt: tuple[int, ...]
    student_prompt: tuple[int, ...]
    answer: tuple[int, ...]
    request: str = ""  # JSON: what was asked, before the chat template

    @property
    def x_ids(self) -> tuple[int, ...]:
        """What the student reads."""
        return (*self.student_prompt, *self.answer)


def fitting(words: Words, part: Sequence[Example], start: int, config: Config) -> tuple[dict[int, Spoken], list[int]]:
    """What is read of each example that fits, by its number in `part`; and the numbers of those that do not.

    Raises `InputError` that names the example: an empty prompt, answer or text; one that is too long, unless skipped.
    """
    limit = min(config.max_tokens or words.context, words.context)
    found, skipped = {}, []
    for i, example in enumerate(part):
        said = spoken(words, example, start + i, config.teacher_system)
        length = len(said.teacher_prompt) + (len(said.answer) if example.answer is not None else 1)
        if length <= limit:
            found[i] = said
        elif config.too_long == "skip":
            skipped.append(start + i)
        else:
            raise InputError(
                f"example {start + i + 1} has {length} tokens; the teacher's limit is {limit}: shorten it, or set "
                'capture.too_long = "skip"'
            )
    return found, skipped


def spoken(words: Words, example: Example, number: int, system: str) -> Spoken:
    """The ids of example `number`; the teacher reads `system` before it."""
    answer = words.text_ids(example.answer) if example.answer is not None else []
    said = bool(example.messages) or bool(example.text)
    if said and not (example.text or example.messages[-1]["content"]).strip():
        raise InputError(f"example {number + 1}: its prompt is empty")
    if example.answer is not None and not example.answer.strip():
        raise InputError(f"example {number + 1}: its {'answer' if said else 'text'} is empty")
    if not said and example.answer is None:
        raise InputError(f"example {number + 1}: neither prompt nor text")
    if not said:
        prompt, answer = (bos(words), answer) if bos(words) else (answer[:1], answer[1:])
        if not answer:
            raise InputError(f"example {number + 1}: its text is a single token; there is nothing to learn from it")
        return Spoken(tuple(prompt), tuple(prompt), tuple(answer), _request(example))
    teacher, student = rendered(words, example, system), rendered(words, example, "")
    answer = [*answer, *end(words)] if example.answer is not None else []
    return Spoken(tuple(teacher), tuple(student), tuple(answer), _request(example))


def rendered(words: Words, example: Example, system: str) -> list[int]:
    """The prompt's ids, after `system` where there is one."""
    if not example.messages:
        return [*bos(words), *words.text_ids(f"{system}\n\n{example.text}" if system else example.text)]
    first, *rest = example.messages
    if not system:
        messages = list(example.messages)
    elif first["role"] == "system":
        messages = [{"role": "system", "content": f"{system}\n\n{first['content']}"}, *rest]
    else:
        messages = [{"role": "system", "content": system}, *example.messages]
    return words.chat_ids(messages)


def bos(words: Words) -> list[int]:
    """The token that this tokenizer puts before every text, if it does."""
    first = words.tokenizer.bos_token_id
    put = list(words.tokenizer("a")["input_ids"])[:1]
    return [first] if isinstance(first, int) and put == [first] else []


def end(words: Words) -> list[int]:
    """The token that ends an answer."""
    stop = words.tokenizer.eos_token_id
    return [stop] if isinstance(stop, int) else sorted(words.stop_ids)[:1]


def _request(example: Example) -> str:
    """What a student with another chat template starts from."""
    asked: dict[str, Any] = {"messages": example.messages} if example.messages else {"text": example.text}
    return canonical(asked).decode()
