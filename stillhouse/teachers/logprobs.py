"""Log-probabilities in the replies of endpoints: every server's form becomes one record, and is checked.

In: a choice of a completion (OpenAI's `logprobs` with token strings, vLLM's `token_id:N`, llama.cpp's and the chat
form's lists of tokens with `id` or `bytes`), vLLM's `prompt_logprobs`, or SGLang's `meta_info`; and the tokenizer that
the user named. Out: `TokenLogprobs`, one per token. A reply that cannot be true is a `ModelError` of one line: its
tokens do not join to its text, are not the tokenizer's, or were not asked for; its log-probabilities are missing, are
no numbers, or sum to more than one.

It does not know HTTP.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ModelError

MASS = 1.01  # the most that top entries may sum to: servers round
SURE = 0.1  # nats that a greedy choice may be less likely than the first: servers add up in another order
_BY_ID = re.compile(r"token_id:(\d+)")
Entries = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class TokenLogprobs:
    """One token: its log-probability (None: not told), and the likeliest entries, most likely first."""

    token: int
    logprob: float | None
    top: Entries


@dataclass(frozen=True)
class EndpointAnswer:
    """An answer that an endpoint wrote. `stopped`: it ended by itself, and did not reach its limit of tokens."""

    tokens: tuple[TokenLogprobs, ...]
    stopped: bool


class TokenTable:
    """The ids of a tokenizer for tokens as servers write them. `where` names the endpoint in errors."""

    def __init__(self, table: Sequence[bytes], special: frozenset[int], where: str):
        self.table, self.special, self.where = table, special, where
        self._ids: dict[bytes, int] = {}
        for index, text in enumerate(table):
            if text and (text not in self._ids or self._ids[text] in special):
                self._ids[text] = index

    def error(self, what: str) -> ModelError:
        """The error for a reply that cannot be true; the caller raises it."""
        return ModelError(f"{self.where}: {what}")

    def check(self, index: Any, text: bytes | None = None) -> int:
        """`index` as an id of the tokenizer. `text`: the bytes that the server gives for it. `ModelError` where they
        are not the tokenizer's."""
        if not isinstance(index, int) or not 0 <= index < len(self.table) or not self.table[index]:
            raise self.error(f"its token id {index!r} is not in the named tokenizer: name the one it serves with")
        comparable = text is not None and index not in self.special and b"\xef\xbf\xbd" not in text
        if comparable and text is not None and self.table[index].strip() != text.strip():
            raise self.error(
                f"its token {index} is {text!r}, and {self.table[index]!r} in the named tokenizer: name the one it "
                "serves with"
            )
        return index

    def find(self, token: str, data: Any = None) -> int | None:
        """The id of a token that is written as text, or as bytes; None where no id has them."""
        if match := _BY_ID.fullmatch(token):
            return self.check(int(match[1]))
        raw = bytes(data) if isinstance(data, list) and data else token.encode()
        return self._ids.get(raw)

    def text(self, ids: Sequence[int]) -> str:
        """The text that ids join to, without special tokens."""
        return b"".join(self.table[i] for i in ids if i not in self.special).decode(errors="replace")


def completion(choice: Mapping[str, Any], table: TokenTable, limit: int, greedy: bool) -> EndpointAnswer:
    """The answer in `choice`, of at most `limit` tokens. `greedy`: it was written at temperature 0."""
    logprobs = choice.get("logprobs")
    if not logprobs and choice.get("finish_reason") == "stop" and choice.get("text") == "":
        return EndpointAnswer((), True)  # the end alone, which this server does not list
    if not logprobs:
        raise table.error(
            "gave no logprobs; it has to serve them (vLLM: --max-logprobs, llama.cpp: n_probs) for this model"
        )
    try:
        tokens = _content(logprobs["content"], table) if "content" in logprobs else _legacy(logprobs, table)
        text, reason = str(choice.get("text", "")), choice.get("finish_reason")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise table.error(f"its logprobs have a form that is not OpenAI's ({error!r})") from error
    if len(tokens) > limit:
        raise table.error(f"gave {len(tokens)} tokens where at most {limit} were asked for")
    _check_text(tokens, text, table)
    _check_logprobs(tokens, table, greedy)
    return EndpointAnswer(tuple(tokens), reason != "length")


def prompt(reply: Any, ids: Sequence[int], first: int, table: TokenTable) -> list[TokenLogprobs]:
    """vLLM's `prompt_logprobs` for the prompt `ids`, from token number `first` on."""
    if not isinstance(reply, list) or len(reply) != len(ids):
        number = len(reply) if isinstance(reply, list) else "no"
        raise table.error(f"gave prompt_logprobs of {number} tokens for a prompt of {len(ids)}")
    tokens = []
    for token, entries in zip(ids[first:], reply[first:], strict=True):
        try:
            logprobs = {table.check(int(i)): _number(e["logprob"], table) for i, e in entries.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise table.error(f"its prompt_logprobs have another form than vLLM's ({error!r})") from error
        if token not in logprobs:
            raise table.error(f"its prompt_logprobs are of other tokens than were sent: {token} is not among them")
        tokens.append(TokenLogprobs(token, logprobs[token], _sorted(logprobs.items())))
    _check_logprobs(tokens, table, greedy=False)
    return tokens


def meta(about: Any, side: str, ids: Sequence[int] | None, table: TokenTable) -> list[TokenLogprobs]:
    """SGLang's `meta_info` for one `side`, "input" or "output". `ids`: the last tokens have to be these; None: any."""
    try:
        own, tops = about[f"{side}_token_logprobs"], about[f"{side}_top_logprobs"]
        if ids is not None:
            own, tops = own[-len(ids) :], tops[-len(ids) :]
        tokens = [
            TokenLogprobs(
                table.check(token), _number(logprob, table),
                _sorted((table.check(i), _number(p, table)) for p, i, *_ in top),
            )
            for (logprob, token, *_), top in zip(own, tops, strict=True)
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise table.error(f"its meta_info has no {side} logprobs as SGLang writes them ({error!r})") from error
    if ids is not None and [t.token for t in tokens] != list(ids):
        raise table.error(f"its {side} logprobs are of other tokens than were sent")
    _check_logprobs(tokens, table, greedy=False)
    return tokens


def _content(content: Sequence[Mapping[str, Any]], table: TokenTable) -> list[TokenLogprobs]:
    """The chat form and llama.cpp's: a list of tokens."""

    def identify(one: Mapping[str, Any]) -> int | None:
        if "id" in one:
            data = one.get("bytes")
            return table.check(one["id"], bytes(data) if isinstance(data, list) and data else None)
        return table.find(one["token"], one.get("bytes"))

    tokens = []
    for one in content:
        listed = [(identify(t), _number(t["logprob"], table)) for t in one.get("top_logprobs") or ()]
        top = _sorted((i, p) for i, p in listed if i is not None)
        token = identify(one)
        if token is None:
            raise _unknown(one["token"], table)
        tokens.append(TokenLogprobs(token, _number(one["logprob"], table), top))
    return tokens


def _legacy(logprobs: Mapping[str, Any], table: TokenTable) -> list[TokenLogprobs]:
    """The form of completions: a list of strings, one of numbers, and a mapping per token."""
    written, own = logprobs["tokens"], logprobs["token_logprobs"]
    tops = logprobs.get("top_logprobs") or [None] * len(written)
    if not len(written) == len(own) == len(tops):
        raise table.error(
            f"gave {len(written)} tokens with {len(own)} log-probabilities and {len(tops)} lists of others"
        )
    tokens = []
    for text, logprob, top in zip(written, own, tops, strict=True):
        listed = [(table.find(t), _number(p, table)) for t, p in (top or {}).items()]
        token = table.find(text)
        if token is None:
            raise _unknown(text, table)
        best = _sorted((i, p) for i, p in listed if i is not None)
        tokens.append(TokenLogprobs(token, _number(logprob, table), best))
    return tokens


def _unknown(written: str, table: TokenTable) -> ModelError:
    if "\ufffd" in written:
        return table.error(
            f"a token is part of a character and is written as {written!r}: an endpoint that names ids is needed "
            "(vLLM, SGLang, llama.cpp), or chat-like logprobs with bytes"
        )
    return table.error(f"its token {written!r} is not in the named tokenizer: name the one it serves with")


def _number(value: Any, table: TokenTable) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value > 1e-3:
        raise table.error(f"a log-probability is {value!r}; it is a number of at most 0")
    return min(float(value), 0.0)


def _sorted(entries: Any) -> Entries:
    return tuple(sorted((e for e in entries if math.isfinite(e[1])), key=lambda e: (-e[1], e[0])))


def _check_text(tokens: Sequence[TokenLogprobs], text: str, table: TokenTable) -> None:
    """The tokens have to join to the text. Spaces around it and halves of characters make no difference."""
    joined = table.text([t.token for t in tokens])
    left, right = (" ".join(t.replace("\ufffd", "").split()) for t in (joined, text))
    if left != right:
        raise table.error(f"its tokens join to {joined[:60]!r}, its text is {text[:60]!r}")


def _check_logprobs(tokens: Sequence[TokenLogprobs], table: TokenTable, greedy: bool) -> None:
    for token in tokens:
        if not token.top:
            raise table.error("gave no alternatives beside the token itself; top logprobs are needed to teach by")
        if (mass := sum(math.exp(p) for _, p in token.top)) > MASS:
            raise table.error(f"its log-probabilities of one token sum to a mass of {mass:.3f}, more than 1")
        listed = dict(token.top).get(token.token)
        if listed is not None and token.logprob is not None and abs(listed - token.logprob) > SURE:
            raise table.error(f"gives one token two log-probabilities, {token.logprob:.3f} and {listed:.3f}")
        if greedy and token.logprob is not None and token.logprob < token.top[0][1] - SURE:
            raise table.error(
                "does not take the likeliest token at temperature 0: it draws, or its logprobs are another model's"
            )
