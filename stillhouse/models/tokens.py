"""Chat templates and tokens: messages rendered as text, the bytes of every id, the ids that end an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ..errors import ModelError, first_line
from ..text.prompts import Message


def render(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> str:
    """The chat template's text, without a thinking block where a template knows that switch.

    A template that refuses or drops a system message gets its text at the head of the first user message; a tokenizer
    without a template gets `Role: text` lines. Special tokens written out in a message are broken up: a memory cannot
    end its own turn. Raises `ModelError` when the template cannot be rendered.
    """
    messages = [{**m, "content": _inert(tokenizer, m["content"])} for m in messages]
    if not tokenizer.chat_template:
        lines = [f"{m['role'].capitalize()}: {m['content']}" for m in messages]
        return "\n".join([*lines, "Assistant:"])
    if messages[0]["role"] != "system":
        return _templated(tokenizer, messages)
    system, user, *rest = messages
    try:
        text = _templated(tokenizer, messages)
    except ModelError:
        text = ""
    if system["content"].strip() in text:
        return text
    merged = {"role": "user", "content": f"{system['content']}\n\n{user['content']}"}
    return _templated(tokenizer, [merged, *rest])


def _templated(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message]) -> str:
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    try:
        return str(tokenizer.apply_chat_template(list(messages), **options))
    except (TemplateError, TypeError, ValueError) as error:
        where = tokenizer.name_or_path or "the tokenizer"
        raise ModelError(f"{where}: its chat template cannot be rendered: {first_line(error)}") from error


def _inert(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    """`text` with a space after the first character of every special token in it, so that it stays text."""
    for token in tokenizer.added_tokens_decoder.values():
        if token.special and token.content in text:
            text = text.replace(token.content, f"{token.content[:1]} {token.content[1:]}")
    return text


def stop_ids(network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Ids that end an answer, from the tokenizer and the generation config."""
    ids: set[int] = set()
    for value in (tokenizer.eos_token_id, getattr(network.generation_config, "eos_token_id", None)):
        ids.update([value] if isinstance(value, int) else value or [])
    return frozenset(ids)


def token_bytes(tokenizer: PreTrainedTokenizerFast, vocabulary: int) -> list[bytes]:
    """Bytes of every id, for byte-level BPE (GPT-2's table of printable stand-ins) and for SentencePiece-like
    vocabularies (U+2581 for a space, `<0xNN>` for a raw byte). Special tokens stand for their own text."""
    added = tokenizer.get_added_vocab()
    backend = tokenizer.backend_tokenizer
    byte_level = "ByteLevel" in f"{backend.decoder}{backend.pre_tokenizer}"
    table = _byte_level_table() if byte_level else {}
    bytes_of = [b""] * vocabulary
    for token, index in tokenizer.get_vocab().items():
        if index >= vocabulary:
            continue
        if token in added:
            bytes_of[index] = token.encode()
        elif byte_level:
            bytes_of[index] = b"".join(bytes([table[c]]) if c in table else c.encode() for c in token)
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            bytes_of[index] = bytes([int(token[3:5], 16)])
        else:
            bytes_of[index] = token.replace("\u2581", " ").encode()
    return bytes_of


def _byte_level_table() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in printable}
    others = [b for b in range(256) if b not in set(printable)]
    return table | {chr(256 + i): b for i, b in enumerate(others)}
