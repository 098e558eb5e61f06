"""Tokens: the bytes of every id, the ids that end an answer, and those that stand before every text."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerFast


def stop_ids(network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Ids that end an answer, from the tokenizer and the generation config."""
    ids: set[int] = set()
    for value in (tokenizer.eos_token_id, getattr(network.generation_config, "eos_token_id", None)):
        ids.update([value] if isinstance(value, int) else value or [])
    return frozenset(ids)


def opening_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """Ids that the tokenizer itself puts before every text, as a BOS; none where it puts none."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    starts = (n for n in range(len(whole)) if list(whole[n : n + len(plain)]) == list(plain))
    return tuple(whole[: next(starts, 0)])


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
