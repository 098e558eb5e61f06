"""Prompts to answers and to logits, in batches, on a shared prefix when there is one.

In: lists of token ids; optionally a `Prefix` (keys and values of text that prompts begin with, computed once), an
adapter slot for each prompt, and what each answer probably is. Out: generated ids, and whatever the caller makes of
the logits; the logits themselves never outlive a step, so no `[tokens, vocabulary]` tensor is kept. `generate` is for a
network, `answer` for any runner; both have one loop.

A probable answer is read in the same forward as its prompt, and as much of it stands as greedy decoding would have said
(Leviathan et al. 2023, arXiv 2211.17192, with a draft that costs nothing): same answer, in one step where it was right.

It does not know what the prompts mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from ..compute.attention import fits
from ..compute.threads import fastest_threads
from ..errors import InputError
from ..models import Model, TextModel
from ..runners import BASE, Runner, TorchRunner
from .batching import Row, columns, grouped, runner_columns
from .decoder import Decoder, computes_once
from .forward import Bank, Ids
from .prefix import Prefix, plain_cache
from .prefix_tree import worth_sharing
from .prompt_lookup import Copied
from .runner_decoder import RunnerDecoder
from .sampling import GREEDY, Draw, Sampling, next_tokens

OnStep = Callable[[list[int], Tensor], None]

SMALL, AHEAD = 2**26, 128  # parameters, and tokens of a step, up to which a step on a CPU is mostly its start


def generate(
    model: Model,
    prompts: Sequence[Ids],
    sampling: Sampling = GREEDY,
    *,
    prefix: Prefix | Sequence[Prefix | None] | None = None,
    numbers: Sequence[int] | None = None,
    bank: Bank | None = None,
    slots: Sequence[int] | None = None,
    drafts: Sequence[Ids] | None = None,
    lookup: int = 0,
    batch: int = 256,
    on_step: OnStep | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[Ids]:
    """Answers to `prompts` (each: the ids after the prefix), without the stop token, in the order given.

    `prefix`: of all prompts, or of each. Where tokens are drawn, each prompt draws by the seed and its number, whatever
    else is in the batch; `numbers` are other numbers than those in `prompts`. `sampling.stop` is not looked at.

    `drafts`: what each answer probably is, without the stop token. `lookup`: for answers that copy from their prompts,
    up to so many tokens that stood behind the last two before are read ahead at every step, where that is worth it.
    Nothing but the time depends on either; drawn answers take no notice of them.

    `on_step(rows, logits_NV)` sees, before tokens are chosen, the numbers of prompts still being answered and their
    next-token logits in float32: N may shrink from step to step, and where a draft was right its prompt stands there
    several times in a row, once for each token. `on_batch(n)` is told how many prompts are done. At most `batch`
    prompts are answered at once, fewer where they are long or the vocabulary is large.
    """
    texts = [prefix] * len(prompts) if prefix is None or isinstance(prefix, Prefix) else list(prefix)
    plan = _plan(model, prompts, texts, sampling, slots, drafts, lookup)
    shares, numbers = plan.shares, numbers or range(len(prompts))
    batch = batch if plain_cache(model.network) else 1  # padding cannot be kept out of a state
    answers = [
        _answer(i, texts[i], prompts[i], sampling.numbered(numbers[i]), plan.room[i], plan.lookup)
        for i in range(len(prompts))
    ]

    def decoder(rows: Sequence[int]) -> Decoder:
        chosen = [slots[i] for i in rows] if slots is not None else None
        own, asked, likely = [texts[i] for i in rows], [prompts[i] for i in rows], [plan.drafts[i] for i in rows]
        return Decoder(model, asked, likely, own, shares, shares and computes_once(model), bank, chosen)

    groups = grouped(
        plan.rows, batch, columns(model), model.vocabulary, texts, one_text=not shares, one_length=plan.one_length
    )
    with fastest_threads(model):
        return _answered(answers, groups, decoder, on_step, on_batch)


def answer(
    runner: Runner,
    prompts: Sequence[Ids],
    sampling: Sampling = GREEDY,
    *,
    slots: Sequence[int] | None = None,
    drafts: Sequence[Ids] | None = None,
    batch: int = 256,
    on_step: OnStep | None = None,
) -> list[Ids]:
    """`generate` by whatever computes a model. `slots`: the adapter of each prompt; None: the base alone.

    A network of transformers reads drafts, and looks at one copy of what prompts begin with. Any other runner answers
    by its own prefill and decode: the same answers, a token a step.
    """
    if isinstance(runner, TorchRunner):
        return generate(
            runner.model, prompts, sampling, bank=runner.bank, slots=slots, drafts=drafts, batch=batch, on_step=on_step
        )
    model, chosen = runner.model, slots or [BASE] * len(prompts)
    room = _rooms(model, [len(prompt) for prompt in prompts], sampling)
    answers = [_answer(i, None, prompts[i], sampling.numbered(i), room[i], 0) for i in range(len(prompts))]

    def decoder(rows: Sequence[int]) -> RunnerDecoder:
        return RunnerDecoder(runner, [prompts[i] for i in rows], [chosen[i] for i in rows])

    wanted = [Row(len(prompt), 0, most) for prompt, most in zip(prompts, room, strict=True)]
    most = runner_columns(runner)
    groups = grouped(wanted, batch, most, model.vocabulary, [None] * len(prompts), one_text=False, one_length=False)
    return _answered(answers, groups, decoder, on_step)


def _rooms(model: TextModel, lengths: Sequence[int], sampling: Sampling) -> list[int]:
    """Tokens that the answer to each prompt may have. Raises `InputError` for a prompt that does not fit."""
    longest = max(lengths, default=0)
    if longest + 1 > model.context:
        raise InputError(f"prompt of {longest} tokens does not fit the model's context of {model.context} tokens")
    return [min(sampling.max_new_tokens, model.context - n) for n in lengths]


class AnyDecoder(Protocol):
    """What the loop asks of a decoder, whose rows are answered together."""

    @property
    def model(self) -> TextModel: ...

    def step(self) -> Tensor:
        """Next-token logits_BKV in float32: after what was read, and after each token of the longest draft."""

    def accept(self, greedy_BK: Tensor) -> list[int]:
        """How many tokens of each row's draft are what greedy decoding gives."""

    def append(self, tokens: Sequence[int], drafts: Sequence[Ids]) -> None:
        """The token that every row goes on with, and what may come after it."""

    def keep(self, rows: list[int]) -> None:
        """The rows that are left, in their order."""


def _answered(
    answers: Sequence[_Answer],
    groups: Iterable[list[int]],
    decoder: Callable[[Sequence[int]], AnyDecoder],
    on_step: OnStep | None,
    on_batch: Callable[[int], None] | None = None,
) -> list[Ids]:
    """Make these answers, group by group."""
    for rows in groups:
        _decode(decoder(rows), [answers[i] for i in rows], on_step)
        if on_batch:
            on_batch(len(rows))
    return [answer.tokens for answer in answers]


class _Plan(NamedTuple):
    """How prompts are answered. `shares`: rows look at one copy of their text; `one_length`: only prompts of one length
    together; `lookup`: tokens that are read ahead from what stood before."""

    rows: list[Row]
    drafts: list[Ids]
    room: list[int]
    shares: bool
    one_length: bool
    lookup: int


def _plan(
    model: Model, prompts: Sequence[Ids], texts: Sequence[Prefix | None], sampling: Sampling,
    slots: Sequence[int] | None, drafts: Sequence[Ids] | None, lookup: int,
) -> _Plan:  # fmt: skip
    """Raises `InputError` for a prompt that does not fit the model's context."""
    shared = [len(text.ids) if text else 0 for text in texts]
    lengths = [n + len(p) for n, p in zip(shared, prompts, strict=True)]
    room, longest = _rooms(model, lengths, sampling), max(lengths, default=0)
    beyond = longest + 2 * sampling.max_new_tokens > _window(model)  # with what is read ahead
    shares = (any(texts) or worth_sharing(prompts, slots)) and fits(model)
    usable = drafts is not None and sampling.greedy and _forgets(model) and (shares or not beyond)
    ahead = [list(d[: max(0, n - 1)]) if usable else [] for d, n in zip(drafts or prompts, room, strict=True)]
    lookup = lookup if _looks_up(model, sampling, longest + (lookup + 2) * sampling.max_new_tokens, shares) else 0
    rows = [
        Row(len(p) + len(d) + (0 if shares else n), max(len(d), lookup), (2 if lookup else 1) * r)  # read in vain
        for p, d, n, r in zip(prompts, ahead, shared, room, strict=True)
    ]
    return _Plan(rows, ahead, room, shares, any(texts) and beyond and not shares, lookup)


def _looks_up(model: Model, sampling: Sampling, columns: int, shares: bool) -> bool:
    """Whether tokens are read ahead from what was said before: where a step is mostly its start, as on an accelerator
    or with a small network, so many rows of a few tokens take little longer than of one."""
    small = model.device.type != "cpu" or sum(p.numel() for p in model.network.parameters()) <= SMALL
    fits = shares or columns <= _window(model)
    return small and sampling.greedy and fits and _forgets(model)


def _forgets(model: Model) -> bool:
    """Whether what was read in vain can be taken back: a column of a cache, in a network that goes by positions."""
    return plain_cache(model.network) and fits(model)


def _window(model: Model) -> int:
    """The shortest window of a layer that slides: columns of a cache that nobody sees, such as padding between prefix
    and prompt and a draft that was wrong, would count in it."""
    layers: list[Any] = DynamicCache(config=model.network.config).layers
    return min((layer.sliding_window for layer in layers if getattr(layer, "is_sliding", False)), default=2**62)


@dataclass(eq=False)
class _Answer:
    """The answer to one prompt while it is made. `read`: all tokens before it; `room`: how many it may have."""

    number: int
    read: Sequence[int]
    sampling: Sampling
    room: int
    copied: Copied
    tokens: Ids = field(default_factory=list)

    @property
    def draw(self) -> Draw:
        """What its next token depends on."""
        penalised = self.sampling.repetition_penalty != 1
        return Draw(self.sampling, len(self.tokens), (*self.read, *self.tokens) if penalised else ())

    def draft(self) -> Ids:
        """Tokens that may stand behind its newest one."""
        return self.copied.next(self.room - len(self.tokens) - 1)


def _answer(number: int, text: Prefix | None, prompt: Ids, sampling: Sampling, room: int, lookup: int) -> _Answer:
    read = [*(text.ids if text else ()), *prompt]
    return _Answer(number, read, sampling, room, Copied(read, lookup))


@torch.inference_mode()
def _decode(decoder: AnyDecoder, answers: Sequence[_Answer], on_step: OnStep | None) -> None:
    """Make these answers; each ends at a stop token, or when it fills its room."""
    alive = [answer for answer in answers if answer.room]
    while alive:
        logits_BKV = decoder.step()
        steps = _next(decoder, alive, logits_BKV)
        if on_step:
            picked = [(row, k) for row, (tokens, _) in enumerate(steps) for k in range(len(tokens))]
            index = torch.tensor(picked, device=logits_BKV.device).T
            on_step([alive[row].number for row, _ in picked], logits_BKV[index[0], index[1]])
        rest = []
        for row, (answer, (tokens, ended)) in enumerate(zip(alive, steps, strict=True)):
            answer.tokens += tokens[:-1] if ended else tokens
            answer.copied.said(tokens)
            if not ended and len(answer.tokens) < answer.room:
                rest.append(row)
        if not rest:
            return
        few = len(rest) * (1 + max(answer.copied.most for answer in alive)) <= AHEAD
        drafts = [answer.draft() if few and row in rest else [] for row, answer in enumerate(alive)]
        decoder.append([tokens[-1] for tokens, _ in steps], drafts)
        if len(rest) < len(alive):
            decoder.keep(rest)
            alive = [alive[row] for row in rest]


def _next(decoder: AnyDecoder, answers: Sequence[_Answer], logits_BKV: Tensor) -> list[tuple[Ids, bool]]:
    """The tokens that each answer goes on with, up to the first stop token, it included, and whether there was one:
    of a draft as many as are right, and the one behind them."""
    if answers[0].sampling.greedy:
        greedy_BK = logits_BKV.argmax(-1)
        agreed = decoder.accept(greedy_BK)
        tokens = [some[: n + 1] for some, n in zip(greedy_BK.tolist(), agreed, strict=True)]
    else:
        tokens = [[token] for token in next_tokens(logits_BKV[:, 0], [answer.draw for answer in answers])]
    return [_until_stop(some, decoder.model) for some in tokens]


def _until_stop(tokens: Ids, model: TextModel) -> tuple[Ids, bool]:
    at = next((i for i, token in enumerate(tokens) if token in model.stop_ids), None)
    return (tokens, False) if at is None else (tokens[: at + 1], True)
