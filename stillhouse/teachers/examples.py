"""Examples of a data set as token ids: what the teacher reads, and what the student reads.

In: `Example`s, a tokenizer with its chat template. Out: `TokenizedExample`s. The teacher may read a system message that
the student does not read. It does not know logits or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..models import TextModel
from ..records import canonical
from ..text.prompts import Message
from .settings import Config


@dataclass(frozen=True)
class Example:
    """One row of a data set: a prompt, as `messages` or as `text`, and its answer.

    A row with neither messages nor text is running text, which stands in `answer`.
    """

    messages: tuple[Message, ...] = ()
    """A prompt for the model's chat template."""
    text: str = ""
    """A prompt without a template."""
    answer: str | None = None
    """What comes after the prompt; None: the teacher writes it."""


@dataclass(frozen=True)
class TokenizedExample:
    """An example in token ids. Teacher and student read the same answer after prompts of their own."""

    teacher_prompt: tuple[int, ...]
    student_prompt: tuple[int, ...]
    answer: tuple[int, ...]
    request: str = ""  # JSON: the prompt before the chat template

    @property
    def x_ids(self) -> tuple[int, ...]:
        """All that the student reads."""
        return (*self.student_prompt, *self.answer)


TokenizedExamples = Sequence[TokenizedExample]


def fitting(
    model: TextModel, part: Sequence[Example], start: int, config: Config
) -> tuple[dict[int, TokenizedExample], list[int]]:
    """The examples that fit into the context, by their number in `part`; and the numbers (from `start`) of the others.

    `InputError` names the example: its prompt, answer or text is empty; it is too long, and is not to be skipped.
    """
    limit = min(config.max_tokens or model.context, model.context)
    fitting_examples, skipped = {}, []
    for i, example in enumerate(part):
        ids = tokenized(model, example, start + i, config.teacher_system)
        length = len(ids.teacher_prompt) + (len(ids.answer) if example.answer is not None else 1)
        if length <= limit:
            fitting_examples[i] = ids
        elif config.too_long == "skip":
            skipped.append(start + i)
        else:
            raise InputError(
                f"example {start + i + 1} has {length} tokens; the teacher's limit is {limit}: shorten it, or set "
                'capture.too_long = "skip"'
            )
    return fitting_examples, skipped


def tokenized(model: TextModel, example: Example, number: int, system: str) -> TokenizedExample:
    """Example `number` in ids. The teacher reads `system` before the prompt, the student does not."""
    answer = model.text_ids(example.answer) if example.answer is not None else []
    has_prompt = bool(example.messages) or bool(example.text)
    if has_prompt and not (example.text or example.messages[-1]["content"]).strip():
        raise InputError(f"example {number + 1}: its prompt is empty")
    if example.answer is not None and not example.answer.strip():
        raise InputError(f"example {number + 1}: its {'answer' if has_prompt else 'text'} is empty")
    if not has_prompt and example.answer is None:
        raise InputError(f"example {number + 1}: neither prompt nor text")
    if not has_prompt:
        prompt, answer = (list(model.opening), answer) if model.opening else (answer[:1], answer[1:])
        if not answer:
            raise InputError(f"example {number + 1}: its text is a single token; there is nothing to learn from it")
        return TokenizedExample(tuple(prompt), tuple(prompt), tuple(answer), _request(example))
    teacher, student = rendered(model, example, system), rendered(model, example, "")
    answer = [*answer, *end(model)] if example.answer is not None else []
    return TokenizedExample(tuple(teacher), tuple(student), tuple(answer), _request(example))


def rendered(model: TextModel, example: Example, system: str) -> list[int]:
    """The prompt's ids, after `system` where there is one."""
    if not example.messages:
        return model.opened_ids(f"{system}\n\n{example.text}" if system else example.text)
    return model.chat_ids(with_system(example.messages, system))


def with_system(messages: Sequence[Message], system: str) -> list[Message]:
    """`messages` with `system` as their system message, or at the head of the one they have; "": as they are."""
    if not system:
        return list(messages)
    first, *rest = messages
    if first["role"] == "system":
        return [{"role": "system", "content": f"{system}\n\n{first['content']}"}, *rest]
    return [{"role": "system", "content": system}, *messages]


def end(model: TextModel) -> list[int]:
    """The token that ends an answer."""
    stop = model.tokenizer.eos_token_id
    return [stop] if isinstance(stop, int) else sorted(model.stop_ids)[:1]


def _request(example: Example) -> str:
    """The prompt before the template, from which a student with another template starts."""
    request: dict[str, Any] = {"messages": example.messages} if example.messages else {"text": example.text}
    return canonical(request).decode()
