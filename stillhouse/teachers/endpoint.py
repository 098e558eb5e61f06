"""A teacher behind an OpenAI-compatible endpoint: vLLM, SGLang, llama.cpp's server, or Stillhouse's own.

In: an address and the tokenizer that is served there, named by the user: prompts are sent as token ids, so both sides
mean the same. Out: signals in the same shards as any teacher's. An endpoint tells its likeliest tokens; what they leave
of 1 is the tail, of which nothing more is known, so there are no draws: students count it as one more token (`ghost`).

An answer it writes comes with its distributions. A given answer is scored with prompt logprobs where the server has
them (vLLM, SGLang), elsewhere by asking for one token after each of its prefixes. It does not know files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from .. import models
from ..errors import InputError, ModelError
from ..records import digest
from ..signals.columns import Ints, Targets, flat_array
from ..text.prompts import Message
from .client import Request, Wire
from .examples import Spoken, end
from .local import Said
from .logprobs import Heard, Position, Spelling, completion, meta, prompt
from .positions import marked
from .settings import Config, Dialect

OWNERS: Mapping[str, Dialect] = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp"}
PREFIXES = 16  # of one answer, asked about in one request
CONTEXT = 4096  # tokens, where neither endpoint nor tokenizer says


@dataclass(frozen=True)
class Served:
    """The tokenizer's side of a model that runs elsewhere."""

    ref: str
    tokenizer: PreTrainedTokenizerFast
    context: int

    @property
    def vocabulary(self) -> int:
        return max(self.tokenizer.get_vocab().values()) + 1

    @property
    def stop_ids(self) -> frozenset[int]:
        last = self.tokenizer.eos_token_id
        return frozenset([last]) if isinstance(last, int) else frozenset()

    @cached_property
    def token_bytes(self) -> list[bytes]:
        return models.token_bytes(self.tokenizer, self.vocabulary)

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        return self.text_ids(models.render(self.tokenizer, messages))

    def text_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    @cached_property
    def fingerprint(self) -> str:
        return digest([self.tokenizer.backend_tokenizer.to_str(), str(self.tokenizer.chat_template)])


@dataclass(frozen=True)
class Endpoint:
    """Teacher `model` on `wire`. `revision` is whatever tells two models of one name apart."""

    wire: Wire
    model: str
    words: Served
    dialect: Dialect
    revision: str = ""
    tail: str = "mass"

    @property
    def vocabulary(self) -> int:
        return self.words.vocabulary

    @property
    def fingerprint(self) -> str:
        return digest(["endpoint", self.model, self.revision, self.words.fingerprint])

    @cached_property
    def spelling(self) -> Spelling:
        special = frozenset(i for i, t in self.words.tokenizer.added_tokens_decoder.items() if t.special)
        return Spelling(self.words.token_bytes, special, f"{self.wire.url} ({self.model})")

    def signals(
        self, given: Sequence[Spoken], asked: Sequence[Spoken], config: Config, key: str, kept: Path | None = None
    ) -> Said:
        written, found = self._written(asked, config, int(key[:8], 16) + config.seed, kept)
        scored = self._scored([*given, *(s for s, f in zip(written, found, strict=True) if f is None)], config, kept)
        rest = iter(scored[len(given) :])
        spoken = [*given, *written]
        places = [*scored[: len(given)], *(next(rest) if f is None else f for f in found)]
        chosen = [self._chosen(s, p, config) for s, p in zip(spoken, places, strict=True)]
        counts_N = np.array([len(rows) for rows in chosen], np.int64)
        return Said(tuple(spoken), self._targets(spoken, chosen, config), counts_N)

    def replies(self, prompts: Sequence[list[int]], longest: int) -> list[str]:
        config = Config(max_new_tokens=longest, top_k=1)
        asked = [Spoken(tuple(p), tuple(p), ()) for p in prompts]
        heard = self._heard(asked, config, 0, None)
        return [self.spelling.text([p.token for p in h.positions]).strip() for h in heard]

    def _written(
        self, asked: Sequence[Spoken], config: Config, seed: int, kept: Path | None
    ) -> tuple[list[Spoken], list[list[Position | None] | None]]:
        """Answers, and what stands at each of their tokens; None for an answer that has to be scored yet."""
        spoken: list[Spoken] = []
        found: list[list[Position | None] | None] = []
        for s, heard in zip(asked, self._heard(asked, config, seed, kept), strict=True):
            ids = [p.token for p in heard.positions]
            places: list[Position | None] = list(heard.positions)
            if heard.stopped and not (ids and ids[-1] in self.words.stop_ids):
                ids += (last := end(self.words))
                places += [Position(t, 0.0, ((t, 0.0),)) for t in last]  # a draw: the server does not tell more
            if ids:
                spoken.append(replace(s, answer=tuple(ids)))
                found.append(None if self.dialect == "sglang" and config.temperature else places)
        return spoken, found

    def _heard(self, asked: Sequence[Spoken], config: Config, seed: int, kept: Path | None) -> list[Heard]:
        rooms = [min(config.max_new_tokens, self.words.context - len(s.teacher_prompt)) for s in asked]
        drawn = [(seed + i) & 0x7FFFFFFF if config.temperature else 0 for i in range(len(asked))]
        requests = [
            self._completion(s.teacher_prompt, room, config, n) for s, room, n in zip(asked, rooms, drawn, strict=True)
        ]
        replies, greedy = self.wire.ask(requests, kept), not config.temperature
        if self.dialect == "sglang":
            return [self._sglang(reply) for reply in replies]
        return [
            completion(self._choices(reply, 1)[0], self.spelling, room, greedy)
            for reply, room in zip(replies, rooms, strict=True)
        ]

    def _completion(self, ids: Sequence[int], most: int, config: Config, seed: int) -> Request:
        """Ask for an answer, drawn from the whole distribution: servers cut it by default."""
        if self.dialect == "sglang":
            drawn = {"max_new_tokens": most, "temperature": config.temperature, "top_p": 1.0, "sampling_seed": seed}
            logprobs = {"return_logprob": True, "top_logprobs_num": config.top_k, "logprob_start_len": len(ids)}
            return Request("/generate", {"input_ids": list(ids), "sampling_params": drawn, **logprobs})
        body = {
            "model": self.model, "prompt": list(ids), "max_tokens": most, "temperature": config.temperature,
            "top_p": 1.0, "seed": seed, "logprobs": config.top_k,
        }  # fmt: skip
        extra = {
            "vllm": {"top_k": -1, "min_p": 0.0, "return_tokens_as_token_ids": True},
            "llama.cpp": {"top_k": 0, "min_p": 0.0, "cache_prompt": True, "repeat_penalty": 1.0},
        }
        return Request("completions", body | extra.get(self.dialect, {}))

    def _sglang(self, reply: Any) -> Heard:
        about = reply.get("meta_info") if isinstance(reply, dict) else None
        positions = meta(about, "output", None, self.spelling)
        reason = (about or {}).get("finish_reason") or {}
        return Heard(tuple(positions), (reason.get("type") if isinstance(reason, dict) else reason) != "length")

    def _choices(self, reply: Any, number: int) -> list[dict[str, Any]]:
        found = reply.get("choices") if isinstance(reply, dict) else None
        if not isinstance(found, list) or not all(isinstance(c, dict) for c in found):
            raise self.spelling.lie(f"answered with no choices: {str(reply)[:80]}")
        if len(found) != number:
            raise self.spelling.lie(f"gave {len(found)} choices where {number} were asked for")
        return sorted(found, key=lambda c: int(c.get("index", 0)))

    def _scored(self, given: Sequence[Spoken], config: Config, kept: Path | None) -> list[list[Position | None]]:
        """What stands at each token of given answers; None where the endpoint does not say."""
        if self.dialect not in ("vllm", "sglang"):
            return self._stepwise(given, config, kept)
        replies = self.wire.ask([self._scoring(s, config) for s in given], kept)
        found: list[list[Position | None]] = []
        for s, reply in zip(given, replies, strict=True):
            ids, first = [*s.teacher_prompt, *s.answer], len(s.teacher_prompt)
            if self.dialect == "vllm":
                said = self._choices(reply, 1)[0].get("prompt_logprobs")
                found.append([*prompt(said, ids, first, self.spelling)])
            else:
                about = reply.get("meta_info") if isinstance(reply, dict) else None
                found.append([*meta(about, "input", s.answer, self.spelling)])
        return found

    def _scoring(self, s: Spoken, config: Config) -> Request:
        ids = [*s.teacher_prompt, *s.answer]
        if self.dialect == "vllm":
            body = {"model": self.model, "prompt": ids, "max_tokens": 1, "temperature": 0.0}
            return Request("completions", body | {"prompt_logprobs": config.top_k})
        logprobs = {"return_logprob": True, "top_logprobs_num": config.top_k, "logprob_start_len": 0}
        return Request("/generate", {"input_ids": ids, "sampling_params": {"max_new_tokens": 1}, **logprobs})

    def _stepwise(self, given: Sequence[Spoken], config: Config, kept: Path | None) -> list[list[Position | None]]:
        """One token after each prefix of every answer; only its distribution is of interest."""
        spans = [(n, i) for n, s in enumerate(given) for i in range(0, len(s.answer), PREFIXES)]
        replies = self.wire.ask([self._prefixes(given[n], i, config) for n, i in spans], kept)
        found: list[list[Position | None]] = [[] for _ in given]
        for (n, i), reply in zip(spans, replies, strict=True):
            labels = given[n].answer[i : i + PREFIXES]
            for label, choice in zip(labels, self._choices(reply, len(labels)), strict=True):
                found[n].append(self._next(label, choice))
        return found

    def _prefixes(self, s: Spoken, start: int, config: Config) -> Request:
        whole = [*s.teacher_prompt, *s.answer]
        first = len(s.teacher_prompt) + start
        prompts = [whole[:at] for at in range(first, min(first + PREFIXES, len(whole)))]
        request = self._completion((), 1, replace(config, temperature=0.0, samples=1), 0)
        return replace(request, body=request.body | {"prompt": prompts})

    def _next(self, label: int, choice: dict[str, Any]) -> Position | None:
        """The distribution before `label`; nothing is said where the endpoint would have ended the answer there."""
        listed = choice.get("logprobs") or {}
        if choice.get("finish_reason") == "stop" and not (listed.get("content") or listed.get("tokens")):
            return None
        heard = completion(choice, self.spelling, 1, greedy=True)
        if not heard.positions:
            return None
        top = heard.positions[0].top
        return Position(label, dict(top).get(label), top)

    def _chosen(self, s: Spoken, places: Sequence[Position | None], config: Config) -> list[tuple[int, Position]]:
        """Of an answer's tokens those that get signals, with their number."""
        kept = marked(config.positions, [self.words.token_bytes[t] for t in s.answer])
        least = config.positions.entropy
        return [
            (i, p)
            for i, (p, mark) in enumerate(zip(places, kept, strict=True))
            if p is not None and (mark or (least > 0 and _entropy(p) >= least))
        ]

    def _targets(
        self, spoken: Sequence[Spoken], chosen: Sequence[Sequence[tuple[int, Position]]], config: Config
    ) -> Targets:
        positions, offsets = [], []
        for s, rows in zip(spoken, chosen, strict=True):
            ends = list(accumulate((len(self.words.token_bytes[t]) for t in s.x_ids), initial=0))
            at = [len(s.student_prompt) + i for i, _ in rows]
            positions += at
            offsets += [ends[i] for i in at]
        told = [p for rows in chosen for _, p in rows]
        kept = [_kept(p, config) for p in told]
        none = np.zeros(len(told), np.int64)
        return Targets(
            np.array(positions, np.int64), np.array(offsets, np.int64),
            np.array([np.nan if p.logprob is None else p.logprob for p in told], np.float32),
            np.array([_left(entries) for entries in kept], np.float32),
            np.array([len(entries) for entries in kept], np.int64),
            flat_array([[i for i, _ in entries] for entries in kept], np.int64),
            flat_array([[p for _, p in entries] for entries in kept], np.float32),
            none, _no_ints(), np.zeros(0, np.float32),
        )  # fmt: skip


def _no_ints() -> Ints:
    return np.zeros(0, np.int64)


def _kept(position: Position, config: Config) -> tuple[tuple[int, float], ...]:
    """At most `top_k` entries, those of a probability under `keep` left out, never the first."""
    least = np.log(config.keep) if config.keep else -np.inf
    return tuple(e for n, e in enumerate(position.top[: config.top_k]) if not n or e[1] >= least)


def _left(entries: Sequence[tuple[int, float]]) -> float:
    return max(0.0, 1.0 - sum(float(np.exp(p)) for _, p in entries))


def _entropy(position: Position) -> float:
    """Nats at least: no token of the tail is likelier than the last that was told."""
    told, tail = [p for _, p in position.top], _left(position.top)
    rest = -tail * min(told[-1], float(np.log(tail))) if tail else 0.0
    return rest - sum(float(np.exp(p)) * p for p in told)


def open_endpoint(
    wire: Wire, model: str, tokenizer: str, dialect: Dialect = "auto", context: int = 0, revision: str = ""
) -> Endpoint:
    """The teacher at an address. `InputError` where the endpoint does not serve `model`, or names several and none was
    chosen; `ModelError` where it is away or `tokenizer` is none."""
    cards = list(_cards(wire))
    names = [str(card["id"]) for card in cards]
    if model and model not in names:
        raise InputError(f"{wire.url}: does not serve {model!r}; it serves {', '.join(names) or 'nothing'}")
    if not model and len(names) != 1:
        raise InputError(f"{wire.url}: serves {', '.join(names) or 'nothing'}; say which with teacher.model")
    card = cards[names.index(model) if model else 0]
    spoken = OWNERS.get(str(card.get("owned_by", "")).lower(), "openai") if dialect == "auto" else dialect
    words = _words(tokenizer, model or names[0], context or _context(card))
    return Endpoint(wire, model or names[0], words, spoken, revision)


def secret(variable: str) -> str:
    """A key from the environment: keys never stand in recipes."""
    if variable and not os.environ.get(variable):
        raise InputError(f"teacher.key: there is no environment variable {variable}; set it to the endpoint's key")
    return os.environ.get(variable, "") if variable else ""


def _cards(wire: Wire) -> Iterator[Mapping[str, Any]]:
    reply = wire.get("models")
    found = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(found, list):
        raise ModelError(f"{wire.url}/models: not an OpenAI-compatible endpoint: {str(reply)[:80]}")
    yield from (card for card in found if isinstance(card, dict) and "id" in card)


def _context(card: Mapping[str, Any]) -> int:
    """The longest sequence that the endpoint says it takes, 0 where it does not say."""
    about = card.get("meta")
    inner = about if isinstance(about, dict) else {}
    said = [card.get("max_model_len"), inner.get("n_ctx"), inner.get("n_ctx_train")]
    return next((n for n in said if isinstance(n, int) and n > 0), 0)


def _words(tokenizer: str, model: str, context: int) -> Served:
    if not tokenizer:
        raise InputError(
            "teacher.tokenizer: missing; name the tokenizer the endpoint serves with: a local folder or a hub id"
        )
    path = models.locate(tokenizer) if tokenizer == models.DEFAULT or Path(tokenizer).expanduser().exists() else None
    try:
        with models.silence():
            found = AutoTokenizer.from_pretrained(path or tokenizer, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"{tokenizer}: no tokenizer there: {str(error).splitlines()[0]}") from error
    if not isinstance(found, PreTrainedTokenizerFast):
        raise ModelError(f"{tokenizer}: has no fast tokenizer (tokenizer.json)")
    longest = int(found.model_max_length) if found.model_max_length < 1 << 30 else CONTEXT
    return Served(model, found, (context or longest) - 1)  # one more is generated even where one only scores
