"""Answers prompts in batches, on a shared prefix when there is one.

In: lists of token ids; optionally a `Prefix` (keys and values of text that prompts begin with, computed once), an
adapter slot for each prompt, and a draft of each answer. Out: generated ids, and whatever the caller computes from the
logits. Logits are freed after each step, so no `[tokens, vocabulary]` tensor is kept. `generate` is for a network and
`answer` for any runner; both run the same loop.

A draft is read in the same forward as its prompt. It is kept up to the first token that greedy decoding would not have
chosen (Leviathan et al. 2023, arXiv 2211.17192, with drafts that cost nothing). The answer is the same, and a right
draft takes one step.

This module does not know what the prompts mean.
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
from .batching import PromptSize, columns, grouped, runner_columns
from .decoder import Decoder, computes_once
from .forward import Bank, Ids
from .prefix import Prefix, plain_cache
from .prefix_tree import worth_sharing
from .prompt_lookup import PromptLookup
from .runner_decoder import RunnerDecoder
from .sampling import GREEDY, Draw, Sampling, next_tokens

OnStep = Callable[[list[int], Tensor], None]

# Up to these sizes a step on a CPU takes about the same time for one token as for several.
SMALL = 2**26  # parameters of the network
FEW_TOKENS = 128  # tokens of a step


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
    """Answers to `prompts` in their order, without the stop token. A prompt is the ids after its prefix.

    `prefix` is one prefix of all prompts, or a list with one for each. `slots` has the adapter slot of each prompt in
    `bank`. When tokens are drawn, each prompt draws by the seed and its number, whatever else is in the batch;
    `numbers` replaces the numbers, which count from 0 by default. `sampling.stop` is ignored. At most `batch` prompts
    are answered at once, and fewer when they are long or the vocabulary is large.

    `drafts` has a probable answer for each prompt, without the stop token. `lookup` helps answers that copy from their
    prompts: at every step, up to `lookup` tokens that followed the last two tokens earlier in the text are read as a
    draft, where that saves time. Both change the time alone, and drawn answers ignore them.

    `on_step(rows, logits_NV)` gets the numbers of the prompts that are being answered, and the float32 logits from
    which their tokens were chosen. N may shrink from step to step. A prompt with a right draft occurs several times in
    a row, once for each token. `on_batch(n)` gets the number of prompts of a batch when it is done.

    Raises `InputError` for a prompt that does not fit the model's context.
    """
    texts = [prefix] * len(prompts) if prefix is None or isinstance(prefix, Prefix) else list(prefix)
    plan = _plan(model, prompts, texts, sampling, slots, drafts, lookup)
    shares, numbers = plan.shares, numbers or range(len(prompts))
    batch = batch if plain_cache(model.network) else 1  # padding cannot be kept out of a state
    answers = [
        _new_answer(i, texts[i], prompts[i], sampling.numbered(numbers[i]), plan.room[i], plan.lookup)
        for i in range(len(prompts))
    ]

    def decoder(rows: Sequence[int]) -> Decoder:
        chosen = [slots[i] for i in rows] if slots is not None else None
        own_texts, own_prompts = [texts[i] for i in rows], [prompts[i] for i in rows]
        own_drafts = [plan.drafts[i] for i in rows]
        return Decoder(model, own_prompts, own_drafts, own_texts, shares, shares and computes_once(model), bank, chosen)

    groups = grouped(
        plan.sizes, batch, columns(model), model.vocabulary, texts, one_text=not shares, one_length=plan.one_length
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
    """`generate` by any runner. `slots` has the adapter of each prompt; None computes the base alone.

    A network of transformers reads drafts, and computes common beginnings of prompts once. Any other runner answers by
    its own prefill and decode: the answers are the same, one token a step.
    """
    if isinstance(runner, TorchRunner):
        return generate(
            runner.model, prompts, sampling, bank=runner.bank, slots=slots, drafts=drafts, batch=batch, on_step=on_step
        )
    model, chosen = runner.model, slots or [BASE] * len(prompts)
    room = _rooms(model, [len(prompt) for prompt in prompts], sampling)
    answers = [_new_answer(i, None, prompts[i], sampling.numbered(i), room[i], 0) for i in range(len(prompts))]

    def decoder(rows: Sequence[int]) -> RunnerDecoder:
        return RunnerDecoder(runner, [prompts[i] for i in rows], [chosen[i] for i in rows])

    sizes = [PromptSize(len(prompt), 0, tokens) for prompt, tokens in zip(prompts, room, strict=True)]
    max_columns = runner_columns(runner)
    groups = grouped(
        sizes, batch, max_columns, model.vocabulary, [None] * len(prompts), one_text=False, one_length=False
    )
    return _answered(answers, groups, decoder, on_step)


def _rooms(model: TextModel, lengths: Sequence[int], sampling: Sampling) -> list[int]:
    """Tokens that the answer to each prompt may have. Raises `InputError` for a prompt that does not fit."""
    longest = max(lengths, default=0)
    if longest + 1 > model.context:
        raise InputError(f"prompt of {longest} tokens does not fit the model's context of {model.context} tokens")
    return [min(sampling.max_new_tokens, model.context - n) for n in lengths]


class AnyDecoder(Protocol):
    """What the loop needs of a decoder. All rows of a decoder are answered together."""

    @property
    def model(self) -> TextModel:
        """The text side of the computed model."""

    def step(self) -> Tensor:
        """Next-token logits_BKV in float32: after the newest token, and after each token of the longest draft."""

    def accept(self, greedy_BK: Tensor) -> list[int]:
        """How many tokens of each row's draft are the ones that greedy decoding gives."""

    def append(self, tokens: Sequence[int], drafts: Sequence[Ids]) -> None:
        """Append the next token of every row, and drafts of what follows it."""

    def keep(self, rows: list[int]) -> None:
        """Keep only these rows, in this order."""


def _answered(
    answers: Sequence[_Answer],
    groups: Iterable[list[int]],
    decoder: Callable[[Sequence[int]], AnyDecoder],
    on_step: OnStep | None,
    on_batch: Callable[[int], None] | None = None,
) -> list[Ids]:
    """Complete these answers, group by group."""
    for rows in groups:
        _decode(decoder(rows), [answers[i] for i in rows], on_step)
        if on_batch:
            on_batch(len(rows))
    return [answer.tokens for answer in answers]


class _Plan(NamedTuple):
    """How prompts are answered."""

    sizes: list[PromptSize]
    """How much of a batch each prompt needs."""
    drafts: list[Ids]
    """The draft of each answer that is read, which may be empty."""
    room: list[int]
    """Tokens that each answer may have."""
    shares: bool
    """Whether rows with the same text before them attend to one copy of it."""
    one_length: bool
    """Whether only prompts of one length are answered together."""
    lookup: int
    """Most tokens of a draft by prompt lookup; 0: none."""


def _plan(
    model: Model, prompts: Sequence[Ids], texts: Sequence[Prefix | None], sampling: Sampling,
    slots: Sequence[int] | None, drafts: Sequence[Ids] | None, lookup: int,
) -> _Plan:  # fmt: skip
    """Raises `InputError` for a prompt that does not fit the model's context."""
    shared = [len(text.ids) if text else 0 for text in texts]
    lengths = [n + len(p) for n, p in zip(shared, prompts, strict=True)]
    room, longest = _rooms(model, lengths, sampling), max(lengths, default=0)
    beyond = longest + 2 * sampling.max_new_tokens > _window(model)  # twice: drafts take columns too
    shares = (any(texts) or worth_sharing(prompts, slots)) and fits(model)
    usable = drafts is not None and sampling.greedy and _can_drop_columns(model) and (shares or not beyond)
    read_drafts = [list(d[: max(0, n - 1)]) if usable else [] for d, n in zip(drafts or prompts, room, strict=True)]
    lookup = lookup if _looks_up(model, sampling, longest + (lookup + 2) * sampling.max_new_tokens, shares) else 0
    sizes = [  # with lookup, wrong drafts take as many columns again as the answer
        PromptSize(len(p) + len(d) + (0 if shares else n), max(len(d), lookup), (2 if lookup else 1) * r)
        for p, d, n, r in zip(prompts, read_drafts, shared, room, strict=True)
    ]
    return _Plan(sizes, read_drafts, room, shares, any(texts) and beyond and not shares, lookup)


def _looks_up(model: Model, sampling: Sampling, columns: int, shares: bool) -> bool:
    """Whether prompt lookup saves time. It does where a step of several tokens takes little longer than a step of one:
    on an accelerator, or with a small network."""
    small = model.device.type != "cpu" or sum(p.numel() for p in model.network.parameters()) <= SMALL
    fits_window = shares or columns <= _window(model)
    return small and sampling.greedy and fits_window and _can_drop_columns(model)


def _can_drop_columns(model: Model) -> bool:
    """Whether wrong tokens of a draft can leave the cache: each is a column, and the network goes by positions."""
    return plain_cache(model.network) and fits(model, cached=False)


def _window(model: Model) -> int:
    """The shortest sliding window of a layer, in columns of the cache; 2**62 when none slides. Columns that no token
    attends to count in a window: the padding between prefix and prompt, and the wrong tokens of a draft."""
    layers: list[Any] = DynamicCache(config=model.network.config).layers
    return min((layer.sliding_window for layer in layers if getattr(layer, "is_sliding", False)), default=2**62)


@dataclass(eq=False)
class _Answer:
    """The answer to one prompt while it is generated."""

    number: int
    """Index of the prompt."""
    read: Sequence[int]
    """All tokens before the answer: prefix and prompt."""
    sampling: Sampling
    """Settings, with the seed of this answer."""
    room: int
    """Tokens that the answer may have."""
    lookup: PromptLookup
    """Drafts from what was read and answered so far."""
    tokens: Ids = field(default_factory=list)
    """The answer so far."""

    @property
    def draw(self) -> Draw:
        """What the next token depends on in addition to its logits."""
        penalised = self.sampling.repetition_penalty != 1
        return Draw(self.sampling, len(self.tokens), (*self.read, *self.tokens) if penalised else ())

    def draft(self) -> Ids:
        """Tokens that may follow the newest one."""
        return self.lookup.draft(self.room - len(self.tokens) - 1)


def _new_answer(number: int, text: Prefix | None, prompt: Ids, sampling: Sampling, room: int, lookup: int) -> _Answer:
    read = [*(text.ids if text else ()), *prompt]
    return _Answer(number, read, sampling, room, PromptLookup(read, lookup))


@torch.inference_mode()
def _decode(decoder: AnyDecoder, answers: Sequence[_Answer], on_step: OnStep | None) -> None:
    """Complete these answers. Each ends at a stop token, or when it has as many tokens as it may have."""
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
            answer.lookup.extend(tokens)
            if not ended and len(answer.tokens) < answer.room:
                rest.append(row)
        if not rest:
            return
        few = len(rest) * (1 + max(answer.lookup.max_draft for answer in alive)) <= FEW_TOKENS
        drafts = [answer.draft() if few and row in rest else [] for row, answer in enumerate(alive)]
        decoder.append([tokens[-1] for tokens, _ in steps], drafts)
        if len(rest) < len(alive):
            decoder.keep(rest)
            alive = [alive[row] for row in rest]


def _next(decoder: AnyDecoder, answers: Sequence[_Answer], logits_BKV: Tensor) -> list[tuple[Ids, bool]]:
    """The next tokens of each answer, and whether they end with a stop token. They are the right tokens of its draft
    and the token after them, up to the first stop token."""
    if answers[0].sampling.greedy:
        greedy_BK = logits_BKV.argmax(-1)
        accepted = decoder.accept(greedy_BK)
        tokens = [some[: n + 1] for some, n in zip(greedy_BK.tolist(), accepted, strict=True)]
    else:
        tokens = [[token] for token in next_tokens(logits_BKV[:, 0], [answer.draw for answer in answers])]
    return [_until_stop(some, decoder.model) for some in tokens]


def _until_stop(tokens: Ids, model: TextModel) -> tuple[Ids, bool]:
    stop = next((i for i, token in enumerate(tokens) if token in model.stop_ids), None)
    return (tokens, False) if stop is None else (tokens[: stop + 1], True)
