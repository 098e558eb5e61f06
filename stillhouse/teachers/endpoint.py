"""A teacher behind an OpenAI-compatible endpoint: vLLM, SGLang, llama.cpp's server, or Stillhouse's own.

In: an address, and the tokenizer that is served there. The user names it. Prompts are sent as token ids, so both sides
read the same tokens. Out: signals in the same shards as any teacher's. An endpoint lists its likeliest tokens. The rest
of the probability is the tail, of which only the mass is known. So there are no draws, and students count the tail as
one more token (`ghost`).

An answer that the endpoint writes comes with its distributions. A given answer is scored with prompt logprobs where the
server has them (vLLM, SGLang), elsewhere by a request for one token after each of its prefixes. It does not know files.
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

from .. import models
from ..errors import InputError, ModelError
from ..models import TextModel
from ..records import digest
from ..signals.columns import Ints, Targets, flat_array
from .client import EndpointClient, EndpointRequest
from .examples import TokenizedExample, TokenizedExamples, end
from .local import TeacherSignals
from .logprobs import EndpointAnswer, TokenLogprobs, TokenTable, completion, meta, prompt
from .positions import marked
from .settings import Config, Dialect

OWNERS: Mapping[str, Dialect] = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp"}
PREFIXES = 16  # of one answer, sent in one request
CONTEXT = 4096  # tokens, where neither the endpoint nor the tokenizer tells its own


@dataclass(frozen=True)
class EndpointText(TextModel):
    """The text side of a model that runs elsewhere. `limit`: tokens of the longest sequence that it takes."""

    limit: int

    @property
    def vocabulary(self) -> int:
        return max(self.tokenizer.get_vocab().values()) + 1

    @property
    def context(self) -> int:
        return self.limit


@dataclass(frozen=True)
class Endpoint:
    """The teacher `model` behind `client`. `revision`: what tells two models of one name apart."""

    client: EndpointClient
    model: str
    text_model: EndpointText
    dialect: Dialect
    revision: str = ""
    tail: str = "mass"

    @property
    def vocabulary(self) -> int:
        return self.text_model.vocabulary

    @property
    def fingerprint(self) -> str:
        return digest(["endpoint", self.model, self.revision, self.text_model.fingerprint])

    @cached_property
    def token_table(self) -> TokenTable:
        special = frozenset(i for i, t in self.text_model.tokenizer.added_tokens_decoder.items() if t.special)
        return TokenTable(self.text_model.token_bytes, special, f"{self.client.url} ({self.model})")

    def signals(
        self,
        given: TokenizedExamples,
        asked: TokenizedExamples,
        config: Config,
        key: str,
        kept: Path | None = None,
    ) -> TeacherSignals:
        written, known = self._written(asked, config, int(key[:8], 16) + config.seed, kept)
        scored = self._scored([*given, *(s for s, k in zip(written, known, strict=True) if k is None)], config, kept)
        rest = iter(scored[len(given) :])
        examples = [*given, *written]
        logprobs = [*scored[: len(given)], *(next(rest) if k is None else k for k in known)]
        chosen = [self._chosen(s, p, config) for s, p in zip(examples, logprobs, strict=True)]
        counts_N = np.array([len(rows) for rows in chosen], np.int64)
        return TeacherSignals(tuple(examples), self._targets(examples, chosen, config), counts_N)

    def replies(self, prompts: Sequence[list[int]], longest: int) -> list[str]:
        config = Config(max_new_tokens=longest, top_k=1)
        asked = [TokenizedExample(tuple(p), tuple(p), ()) for p in prompts]
        answers = self._answers(asked, config, 0, None)
        return [self.token_table.text([t.token for t in a.tokens]).strip() for a in answers]

    def _written(
        self, asked: TokenizedExamples, config: Config, seed: int, kept: Path | None
    ) -> tuple[list[TokenizedExample], list[list[TokenLogprobs | None] | None]]:
        """The examples with answers, and the log-probabilities at each token; None: the answer has to be scored."""
        examples: list[TokenizedExample] = []
        known: list[list[TokenLogprobs | None] | None] = []
        for s, answer in zip(asked, self._answers(asked, config, seed, kept), strict=True):
            ids = [t.token for t in answer.tokens]
            logprobs: list[TokenLogprobs | None] = list(answer.tokens)
            if answer.stopped and not (ids and ids[-1] in self.text_model.stop_ids):
                ids += (last := end(self.text_model))
                logprobs += [TokenLogprobs(t, 0.0, ((t, 0.0),)) for t in last]  # servers do not list the end token
            if ids:
                examples.append(replace(s, answer=tuple(ids)))
                known.append(None if self.dialect == "sglang" and config.temperature else logprobs)
        return examples, known

    def _answers(self, asked: TokenizedExamples, config: Config, seed: int, kept: Path | None) -> list[EndpointAnswer]:
        limits = [min(config.max_new_tokens, self.text_model.context - len(s.teacher_prompt)) for s in asked]
        seeds = [(seed + i) & 0x7FFFFFFF if config.temperature else 0 for i in range(len(asked))]
        requests = [
            self._completion(s.teacher_prompt, limit, config, n)
            for s, limit, n in zip(asked, limits, seeds, strict=True)
        ]
        replies, greedy = self.client.ask(requests, kept), not config.temperature
        if self.dialect == "sglang":
            return [self._sglang(reply) for reply in replies]
        return [
            completion(self._choices(reply, 1)[0], self.token_table, limit, greedy)
            for reply, limit in zip(replies, limits, strict=True)
        ]

    def _completion(self, ids: Sequence[int], limit: int, config: Config, seed: int) -> EndpointRequest:
        """A request for an answer that is drawn from the whole distribution, which servers cut by default."""
        if self.dialect == "sglang":
            sampling = {"max_new_tokens": limit, "temperature": config.temperature, "top_p": 1.0, "sampling_seed": seed}
            logprobs = {"return_logprob": True, "top_logprobs_num": config.top_k, "logprob_start_len": len(ids)}
            return EndpointRequest("/generate", {"input_ids": list(ids), "sampling_params": sampling, **logprobs})
        body = {
            "model": self.model, "prompt": list(ids), "max_tokens": limit, "temperature": config.temperature,
            "top_p": 1.0, "seed": seed, "logprobs": config.top_k,
        }  # fmt: skip
        extra = {
            "vllm": {"top_k": -1, "min_p": 0.0, "return_tokens_as_token_ids": True},
            "llama.cpp": {"top_k": 0, "min_p": 0.0, "cache_prompt": True, "repeat_penalty": 1.0},
        }
        return EndpointRequest("completions", body | extra.get(self.dialect, {}))

    def _sglang(self, reply: Any) -> EndpointAnswer:
        about = reply.get("meta_info") if isinstance(reply, dict) else None
        tokens = meta(about, "output", None, self.token_table)
        reason = (about or {}).get("finish_reason") or {}
        return EndpointAnswer(tuple(tokens), (reason.get("type") if isinstance(reason, dict) else reason) != "length")

    def _choices(self, reply: Any, number: int) -> list[dict[str, Any]]:
        choices = reply.get("choices") if isinstance(reply, dict) else None
        if not isinstance(choices, list) or not all(isinstance(c, dict) for c in choices):
            raise self.token_table.error(f"answered with no choices: {str(reply)[:80]}")
        if len(choices) != number:
            raise self.token_table.error(f"gave {len(choices)} choices where {number} were asked for")
        return sorted(choices, key=lambda c: int(c.get("index", 0)))

    def _scored(self, given: TokenizedExamples, config: Config, kept: Path | None) -> list[list[TokenLogprobs | None]]:
        """The log-probabilities at each token of given answers; None where the endpoint does not tell."""
        if self.dialect not in ("vllm", "sglang"):
            return self._stepwise(given, config, kept)
        replies = self.client.ask([self._scoring(s, config) for s in given], kept)
        scored: list[list[TokenLogprobs | None]] = []
        for s, reply in zip(given, replies, strict=True):
            ids, first = [*s.teacher_prompt, *s.answer], len(s.teacher_prompt)
            if self.dialect == "vllm":
                listed = self._choices(reply, 1)[0].get("prompt_logprobs")
                scored.append([*prompt(listed, ids, first, self.token_table)])
            else:
                about = reply.get("meta_info") if isinstance(reply, dict) else None
                scored.append([*meta(about, "input", s.answer, self.token_table)])
        return scored

    def _scoring(self, s: TokenizedExample, config: Config) -> EndpointRequest:
        ids = [*s.teacher_prompt, *s.answer]
        if self.dialect == "vllm":
            body = {"model": self.model, "prompt": ids, "max_tokens": 1, "temperature": 0.0}
            return EndpointRequest("completions", body | {"prompt_logprobs": config.top_k})
        logprobs = {"return_logprob": True, "top_logprobs_num": config.top_k, "logprob_start_len": 0}
        return EndpointRequest("/generate", {"input_ids": ids, "sampling_params": {"max_new_tokens": 1}, **logprobs})

    def _stepwise(
        self, given: TokenizedExamples, config: Config, kept: Path | None
    ) -> list[list[TokenLogprobs | None]]:
        """The same by asking for one token after each prefix of every answer."""
        spans = [(n, i) for n, s in enumerate(given) for i in range(0, len(s.answer), PREFIXES)]
        replies = self.client.ask([self._prefixes(given[n], i, config) for n, i in spans], kept)
        scored: list[list[TokenLogprobs | None]] = [[] for _ in given]
        for (n, i), reply in zip(spans, replies, strict=True):
            labels = given[n].answer[i : i + PREFIXES]
            for label, choice in zip(labels, self._choices(reply, len(labels)), strict=True):
                scored[n].append(self._next(label, choice))
        return scored

    def _prefixes(self, s: TokenizedExample, start: int, config: Config) -> EndpointRequest:
        whole = [*s.teacher_prompt, *s.answer]
        first = len(s.teacher_prompt) + start
        prompts = [whole[:at] for at in range(first, min(first + PREFIXES, len(whole)))]
        request = self._completion((), 1, replace(config, temperature=0.0, samples=1), 0)
        return replace(request, body=request.body | {"prompt": prompts})

    def _next(self, label: int, choice: dict[str, Any]) -> TokenLogprobs | None:
        """The distribution before `label`; None where the endpoint would have ended the answer there."""
        listed = choice.get("logprobs") or {}
        if choice.get("finish_reason") == "stop" and not (listed.get("content") or listed.get("tokens")):
            return None
        answer = completion(choice, self.token_table, 1, greedy=True)
        if not answer.tokens:
            return None
        top = answer.tokens[0].top
        return TokenLogprobs(label, dict(top).get(label), top)

    def _chosen(
        self, s: TokenizedExample, logprobs: Sequence[TokenLogprobs | None], config: Config
    ) -> list[tuple[int, TokenLogprobs]]:
        """The tokens of an answer that get signals, with their numbers."""
        kept = marked(config.positions, [self.text_model.token_bytes[t] for t in s.answer])
        least = config.positions.entropy
        return [
            (i, p)
            for i, (p, mark) in enumerate(zip(logprobs, kept, strict=True))
            if p is not None and (mark or (least > 0 and _entropy(p) >= least))
        ]

    def _targets(
        self,
        examples: TokenizedExamples,
        chosen: Sequence[Sequence[tuple[int, TokenLogprobs]]],
        config: Config,
    ) -> Targets:
        positions, offsets = [], []
        for s, rows in zip(examples, chosen, strict=True):
            ends = list(accumulate((len(self.text_model.token_bytes[t]) for t in s.x_ids), initial=0))
            at = [len(s.student_prompt) + i for i, _ in rows]
            positions += at
            offsets += [ends[i] for i in at]
        tokens = [t for rows in chosen for _, t in rows]
        kept = [_kept(t, config) for t in tokens]
        none = np.zeros(len(tokens), np.int64)
        return Targets(
            np.array(positions, np.int64), np.array(offsets, np.int64),
            np.array([np.nan if t.logprob is None else t.logprob for t in tokens], np.float32),
            np.array([_tail(entries) for entries in kept], np.float32),
            np.array([len(entries) for entries in kept], np.int64),
            flat_array([[i for i, _ in entries] for entries in kept], np.int64),
            flat_array([[p for _, p in entries] for entries in kept], np.float32),
            none, _no_ints(), np.zeros(0, np.float32),
        )  # fmt: skip


def _no_ints() -> Ints:
    return np.zeros(0, np.int64)


def _kept(token: TokenLogprobs, config: Config) -> tuple[tuple[int, float], ...]:
    """At most `top_k` entries, without those of a probability under `keep`; the first is always kept."""
    least = np.log(config.keep) if config.keep else -np.inf
    return tuple(e for n, e in enumerate(token.top[: config.top_k]) if not n or e[1] >= least)


def _tail(entries: Sequence[tuple[int, float]]) -> float:
    return max(0.0, 1.0 - sum(float(np.exp(p)) for _, p in entries))


def _entropy(token: TokenLogprobs) -> float:
    """A lower bound in nats: no token of the tail is likelier than the last entry."""
    logprobs, tail = [p for _, p in token.top], _tail(token.top)
    rest = -tail * min(logprobs[-1], float(np.log(tail))) if tail else 0.0
    return rest - sum(float(np.exp(p)) * p for p in logprobs)


def open_endpoint(
    client: EndpointClient, model: str, tokenizer: str, dialect: Dialect = "auto", context: int = 0, revision: str = "",
    home: Path | None = None,
) -> Endpoint:  # fmt: skip
    """The teacher at an address. `InputError` where the endpoint does not serve `model`, or names several and none was
    chosen; `ModelError` where it is away or `tokenizer` is none."""
    cards = list(_cards(client))
    names = [str(card["id"]) for card in cards]
    if model and model not in names:
        raise InputError(f"{client.url}: does not serve {model!r}; it serves {', '.join(names) or 'nothing'}")
    if not model and len(names) != 1:
        raise InputError(f"{client.url}: serves {', '.join(names) or 'nothing'}; say which with teacher.model")
    card = cards[names.index(model) if model else 0]
    dialect = OWNERS.get(str(card.get("owned_by", "")).lower(), "openai") if dialect == "auto" else dialect
    text_model = _text_model(tokenizer, model or names[0], context or _context(card), home)
    return Endpoint(client, model or names[0], text_model, dialect, revision)


def secret(variable: str) -> str:
    """The key in an environment variable: recipes name the variable, never the key."""
    if variable and not os.environ.get(variable):
        raise InputError(f"teacher.key: there is no environment variable {variable}; set it to the endpoint's key")
    return os.environ.get(variable, "") if variable else ""


def _cards(client: EndpointClient) -> Iterator[Mapping[str, Any]]:
    reply = client.get("models")
    data = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(data, list):
        raise ModelError(f"{client.url}/models: not an OpenAI-compatible endpoint: {str(reply)[:80]}")
    yield from (card for card in data if isinstance(card, dict) and "id" in card)


def _context(card: Mapping[str, Any]) -> int:
    """Tokens of the longest sequence that the endpoint takes, as it tells; 0: it does not tell."""
    about = card.get("meta")
    inner = about if isinstance(about, dict) else {}
    lengths = [card.get("max_model_len"), inner.get("n_ctx"), inner.get("n_ctx_train")]
    return next((n for n in lengths if isinstance(n, int) and n > 0), 0)


def _text_model(tokenizer: str, model: str, context: int, home: Path | None) -> EndpointText:
    if not tokenizer:
        raise InputError(
            "teacher.tokenizer: missing; name the tokenizer the endpoint serves with: a local folder or a hub id"
        )
    loaded = models.load_tokenizer(tokenizer, home)
    longest = int(loaded.model_max_length) if loaded.model_max_length < 1 << 30 else CONTEXT
    last = loaded.eos_token_id
    return EndpointText(
        model, Path(loaded.name_or_path), loaded,
        digest([loaded.backend_tokenizer.to_str(), str(loaded.chat_template)]),
        frozenset([last] if isinstance(last, int) else []),
        (context or longest) - 1,  # servers generate one token even where they only score
    )  # fmt: skip
