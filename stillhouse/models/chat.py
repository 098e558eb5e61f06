"""A conversation as text: by the model's own chat template, or as a transcript where there is none.

In: a tokenizer with its template, messages. Out: text that is ready for the assistant's reply. Templates differ in what
they take: some refuse a system message or drop it, some demand that user and assistant take turns. Whatever a
conversation is made of, it is brought into a form that the template takes, and nothing that was written is lost.

It does not know tokens, memories, or how the text is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from ..errors import ModelError, first_line
from ..text.prompts import Message, transcript

ROLES = ("system", "user", "assistant")
PROBE = "qvxj"  # a text that no template has of its own


def render(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> str:
    """The conversation in the chat template's words, without a thinking block where a template knows that switch.

    A tokenizer without a template gets a transcript. Empty system messages are left out. Special tokens written out in
    a message are broken up: a memory cannot end its own turn. `ModelError` where there is nothing to render, or where
    the template takes the conversation in none of its `forms`.
    """
    messages = [{**m, "content": inert(tokenizer, m["content"])} for m in messages]
    messages = [m for m in messages if m["role"] != "system" or m["content"].strip()]
    if not messages:
        raise ModelError("the conversation is empty: give a user message")
    if not tokenizer.chat_template:
        return transcript(messages)
    rendered, problem = [], None
    for form in forms(messages):
        try:
            text = _templated(tokenizer, form)
        except ModelError as error:
            problem = problem or error
            continue
        if all(m["content"].strip() in text for m in messages if m["role"] != "assistant"):
            return text
        rendered.append(text)
    if rendered:  # the template writes some text in other words, in every form
        return rendered[-1]
    assert problem is not None, "a form is rendered, or it is a problem"
    raise problem


def forms(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The conversation as it is; then with turns that alternate, user first, after its system message; then with that
    at the head of the first user turn as well."""
    yield list(messages)
    if any(m["role"] not in ROLES for m in messages):
        return
    first = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    yield [*_merged(messages[:first]), *_turns(messages[first:])]
    yield _turns(messages)


def _turns(messages: Sequence[Message]) -> list[Message]:
    """Turns of user and assistant, the user's first, which is empty where the assistant speaks first. What a system
    message says there is the user's."""
    turns = _merged([{**m, "role": "user"} if m["role"] == "system" else m for m in messages])
    opening = [{"role": "user", "content": ""}] if turns and turns[0]["role"] == "assistant" else []
    return [*opening, *turns]


def _merged(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role as one message."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1] = {**merged[-1], "content": f"{merged[-1]['content']}\n\n{message['content']}"}
        else:
            merged.append(message)
    return merged


def _templated(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> str:
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    try:
        return str(tokenizer.apply_chat_template(list(messages), **options))
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        roles = ", ".join(m["role"] for m in messages)
        raise ModelError(
            f"the model's chat template cannot be rendered: {first_line(error)} (for messages of {roles})"
        ) from error


def inert(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    """`text` with a space after the first character of every special token in it, so that it stays text."""
    for token in tokenizer.added_tokens_decoder.values():
        if token.special and token.content in text:
            text = text.replace(token.content, f"{token.content[:1]} {token.content[1:]}")
    return text


def takes_system(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the chat template has a place of its own for a system message."""
    try:
        text = _templated(tokenizer, [{"role": "system", "content": PROBE}, {"role": "user", "content": "?"}])
    except ModelError:
        return False
    return PROBE in text


def default_system(tokenizer: PreTrainedTokenizerFast) -> str:
    """The system message that the chat template writes where a conversation has none; "" where it writes none."""
    if not tokenizer.chat_template or not takes_system(tokenizer):
        return ""
    question = {"role": "user", "content": "?"}
    before, after = _templated(tokenizer, [{"role": "system", "content": PROBE}, question]).split(PROBE, 1)
    try:
        text = _templated(tokenizer, [question])
    except ModelError:
        return ""
    own = text.startswith(before) and text.endswith(after) and len(text) > len(before) + len(after)
    return text[len(before) : len(text) - len(after)].strip() if own else ""
