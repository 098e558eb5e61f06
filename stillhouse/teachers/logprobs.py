"""What an endpoint said about tokens, in every form that servers say it, and whether it can be true.

In: a choice of a completion (OpenAI's `logprobs` with token strings, vLLM's `token_id:N`, llama.cpp's and the chat
form's lists of tokens with `id` or `bytes`), vLLM's `prompt_logprobs`, or SGLang's `meta_info`; and the tokenizer the
user named. Out: `Heard`: ids with the distribution at each. What cannot be true is a `ModelError` in one line: tokens
that do not join to the text, that are not the tokenizer's, or were not asked for; log-probabilities that are missing,
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

MASS = 1.01  # top entries may sum to so much: servers round
SURE = 0.1  # nats that a greedy choice may be behind the first: servers add up in another order
_BY_ID = re.compile(r"token_id:(\d+)")
Entries = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Position:
    """One token: its log-probability (None: not said), and the likeliest entries, most likely first."""

    token: int
    logprob: float | None
    top: Entries


@dataclass(frozen=True)
class Heard:
    """An answer. `stopped`: it ended by itself, not for want of room."""

    positions: tuple[Position, ...]
    stopped: bool


class Spelling:
    """Ids of a tokenizer from the ways in which servers write tokens."""

    def __init__(self, table: Sequence[bytes], special: frozenset[int], where: str):
        self.table, self.special, self.where = table, special, where
        self._ids: dict[bytes, int] = {}
        for index, text in enumerate(table):
            if text and (text not in self._ids or self._ids[text] in special):
                self._ids[text] = index

    def lie(self, what: str) -> ModelError:
        """The error for an endpoint that cannot be believed."""
        return ModelError(f"{self.where}: {what}")

    def check(self, index: Any, text: bytes | None = None) -> int:
        """An id that the server named; `text`: what it says the id stands for."""
        if not isinstance(index, int) or not 0 <= index < len(self.table) or not self.table[index]:
            raise self.lie(f"its token id {index!r} is not in the named tokenizer: name the one it serves with")
        told = text is not None and index not in self.special and b"\xef\xbf\xbd" not in text
        if told and text is not None and self.table[index].strip() != text.strip():
            raise self.lie(
                f"its token {index} is {text!r}, and {self.table[index]!r} in the named tokenizer: name the one it "
                "serves with"
            )
        return index

    def find(self, token: str, data: Any = None) -> int | None:
        """The id of a token written as text, or as bytes; None where it cannot be told."""
        if match := _BY_ID.fullmatch(token):
            return self.check(int(match[1]))
        raw = bytes(data) if isinstance(data, list) and data else token.encode()
        return self._ids.get(raw)

    def text(self, ids: Sequence[int]) -> str:
        """What ids join to, without special tokens."""
        return b"".join(self.table[i] for i in ids if i not in self.special).decode(errors="replace")


def completion(choice: Mapping[str, Any], spelling: Spelling, most: int, greedy: bool) -> Heard:
    """An answer of at most `most` tokens with the distribution at each."""
    logprobs = choice.get("logprobs")
    if not logprobs and choice.get("finish_reason") == "stop" and choice.get("text") == "":
        return Heard((), True)  # nothing but an end, which this server does not show
    if not logprobs:
        raise spelling.lie(
            "gave no logprobs; it has to serve them (vLLM: --max-logprobs, llama.cpp: n_probs) for this model"
        )
    try:
        found = _content(logprobs["content"], spelling) if "content" in logprobs else _legacy(logprobs, spelling)
        text, reason = str(choice.get("text", "")), choice.get("finish_reason")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise spelling.lie(f"its logprobs have a form that is not OpenAI's ({error!r})") from error
    if len(found) > most:
        raise spelling.lie(f"gave {len(found)} tokens where at most {most} were asked for")
    _joined(found, text, spelling)
    _believable(found, spelling, greedy)
    return Heard(tuple(found), reason != "length")


def prompt(reply: Any, ids: Sequence[int], first: int, spelling: Spelling) -> list[Position]:
    """vLLM's `prompt_logprobs` of `ids` from `first` on."""
    if not isinstance(reply, list) or len(reply) != len(ids):
        number = len(reply) if isinstance(reply, list) else "no"
        raise spelling.lie(f"gave prompt_logprobs of {number} tokens for a prompt of {len(ids)}")
    found = []
    for token, entries in zip(ids[first:], reply[first:], strict=True):
        try:
            said = {spelling.check(int(i)): _number(e["logprob"], spelling) for i, e in entries.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise spelling.lie(f"its prompt_logprobs have another form than vLLM's ({error!r})") from error
        if token not in said:
            raise spelling.lie(f"its prompt_logprobs are of other tokens than were sent: {token} is not among them")
        found.append(Position(token, said[token], _sorted(said.items())))
    _believable(found, spelling, greedy=False)
    return found


def meta(about: Any, side: str, ids: Sequence[int] | None, spelling: Spelling) -> list[Position]:
    """SGLang's `meta_info`: `side` is "input" or "output"; `ids`: what its last tokens have to be."""
    try:
        said, tops = about[f"{side}_token_logprobs"], about[f"{side}_top_logprobs"]
        if ids is not None:
            said, tops = said[-len(ids) :], tops[-len(ids) :]
        found = [
            Position(
                spelling.check(token), _number(logprob, spelling),
                _sorted((spelling.check(i), _number(p, spelling)) for p, i, *_ in top),
            )
            for (logprob, token, *_), top in zip(said, tops, strict=True)
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise spelling.lie(f"its meta_info has no {side} logprobs as SGLang writes them ({error!r})") from error
    if ids is not None and [p.token for p in found] != list(ids):
        raise spelling.lie(f"its {side} logprobs are of other tokens than were sent")
    _believable(found, spelling, greedy=False)
    return found


def _content(content: Sequence[Mapping[str, Any]], spelling: Spelling) -> list[Position]:
    """The chat form, and llama.cpp's: a list of tokens."""

    def identify(one: Mapping[str, Any]) -> int | None:
        if "id" in one:
            data = one.get("bytes")
            return spelling.check(one["id"], bytes(data) if isinstance(data, list) and data else None)
        return spelling.find(one["token"], one.get("bytes"))

    found = []
    for one in content:
        told = [(identify(t), _number(t["logprob"], spelling)) for t in one.get("top_logprobs") or ()]
        top = _sorted((i, p) for i, p in told if i is not None)
        token = identify(one)
        if token is None:
            raise _nameless(one["token"], spelling)
        found.append(Position(token, _number(one["logprob"], spelling), top))
    return found


def _legacy(logprobs: Mapping[str, Any], spelling: Spelling) -> list[Position]:
    """Completions' own form: lists of strings and numbers, and a mapping per position."""
    tokens, own = logprobs["tokens"], logprobs["token_logprobs"]
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    if not len(tokens) == len(own) == len(tops):
        raise spelling.lie(
            f"gave {len(tokens)} tokens with {len(own)} log-probabilities and {len(tops)} lists of others"
        )
    found = []
    for written, logprob, top in zip(tokens, own, tops, strict=True):
        told = [(spelling.find(t), _number(p, spelling)) for t, p in (top or {}).items()]
        token = spelling.find(written)
        if token is None:
            raise _nameless(written, spelling)
        found.append(Position(token, _number(logprob, spelling), _sorted((i, p) for i, p in told if i is not None)))
    return found


def _nameless(written: str, spelling: Spelling) -> ModelError:
    if "\ufffd" in written:
        return spelling.lie(
            f"a token is part of a character and is written as {written!r}: an endpoint that names ids is needed "
            "(vLLM, SGLang, llama.cpp), or chat-like logprobs with bytes"
        )
    return spelling.lie(f"its token {written!r} is not in the named tokenizer: name the one it serves with")


def _number(value: Any, spelling: Spelling) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value > 1e-3:
        raise spelling.lie(f"a log-probability is {value!r}; it is a number of at most 0")
    return min(float(value), 0.0)


def _sorted(entries: Any) -> Entries:
    return tuple(sorted((e for e in entries if math.isfinite(e[1])), key=lambda e: (-e[1], e[0])))


def _joined(found: Sequence[Position], text: str, spelling: Spelling) -> None:
    """Whether the tokens are those of the text; spaces around it and halves of characters aside."""
    joined = spelling.text([p.token for p in found])
    left, right = (" ".join(t.replace("\ufffd", "").split()) for t in (joined, text))
    if left != right:
        raise spelling.lie(f"its tokens join to {joined[:60]!r}, its text is {text[:60]!r}")


def _believable(found: Sequence[Position], spelling: Spelling, greedy: bool) -> None:
    for position in found:
        if not position.top:
            raise spelling.lie("gave no alternatives beside the token itself; top logprobs are needed to teach by")
        if (mass := sum(math.exp(p) for _, p in position.top)) > MASS:
            raise spelling.lie(f"its log-probabilities of one token sum to a mass of {mass:.3f}, more than 1")
        said = dict(position.top).get(position.token)
        if said is not None and position.logprob is not None and abs(said - position.logprob) > SURE:
            raise spelling.lie(f"gives one token two log-probabilities, {position.logprob:.3f} and {said:.3f}")
        if greedy and position.logprob is not None and position.logprob < position.top[0][1] - SURE:
            raise spelling.lie(
                "does not take the likeliest token at temperature 0: it draws, or its logprobs are another model's"
            )
