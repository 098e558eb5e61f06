"""Prompts to answers and to logits, in batches, on a shared prefix when there is one.

In: lists of token ids; optionally a `Prefix` (keys and values of text that prompts begin with, computed once), an
AdapterBank with one slot per prompt, and what each answer probably is. Out: generated ids, and whatever the caller
makes of the logits; the logits themselves never outlive a step, so no `[tokens, vocabulary]` tensor is kept.

A probable answer is read in the same forward as its prompt, and as much of it stands as greedy decoding would have said
(Leviathan et al. 2023, arXiv 2211.17192, with a draft that costs nothing): same answer, in one step where it was right.

It does not know what the prompts mean.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ..compute.attention import replaceable
from ..compute.kernels import built
from ..compute.threads import for_steps
from ..errors import InputError, ModelError
from ..models import Model
from ..models.forward import head, pad_right
from .batching import Row, grouped
from .prefix_tree import Alike, much_alike
from .prompt_lookup import Copied
from .sampling import GREEDY, Draw, Sampling, next_tokens
from .shared_prefix import Shared, Text, plain_cache, shareable

R = TypeVar("R")
Ids = list[int]
SMALL, AHEAD = 2**26, 128  # parameters, and tokens of a step, up to which a step on a CPU is mostly its start


class Bank(Protocol):
    """What this file asks of an AdapterBank."""

    def rows(self, slots: Sequence[int] | None, wide: bool = False) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class Prefix:
    """Keys and values of `ids` for a batch of one. Never written to: batches get expanded views of it."""

    ids: tuple[int, ...]
    cache: DynamicCache

    def expand(self, rows: int) -> DynamicCache:
        """The same keys and values for `rows` rows, without copying them."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        for layer in cache.layers:
            if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
                raise ModelError(f"a cache layer of {type(layer).__name__} cannot be shared between prompts")
            layer.keys = layer.keys.expand(rows, -1, -1, -1)
            layer.values = layer.values.expand(rows, -1, -1, -1)
        return cache


def common_prefix(prompts: Sequence[Ids]) -> int:
    """How many leading ids all prompts share, leaving each prompt at least one id of its own."""
    shortest = min(len(p) for p in prompts) - 1
    first = prompts[0]
    for i in range(shortest):
        if any(p[i] != first[i] for p in prompts):
            return i
    return max(shortest, 0)


@torch.inference_mode()
def prefill(model: Model, ids: Sequence[int], chunk: int = 2048) -> Prefix:
    """Run `ids` through the model once and keep their keys and values."""
    cache = DynamicCache(config=model.network.config)
    for start in range(0, len(ids), chunk):
        part_BT = torch.tensor([ids[start : start + chunk]], device=model.device)
        model.network.base_model(input_ids=part_BT, past_key_values=cache, use_cache=True)
    return Prefix(tuple(ids), cache)


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
    on_step: Callable[[list[int], Tensor], None] | None = None,
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
    shared = [len(text.ids) if text else 0 for text in texts]
    lengths = [n + len(p) for n, p in zip(shared, prompts, strict=True)]
    longest = max(lengths, default=0)
    if longest + 1 > model.context:
        raise InputError(f"prompt of {longest} tokens does not fit the model's context of {model.context} tokens")
    answers: dict[int, Ids] = {}
    numbers = numbers or range(len(prompts))
    room = [min(sampling.max_new_tokens, model.context - n) for n in lengths]
    beyond = longest + 2 * sampling.max_new_tokens > _window(model)  # with what is read ahead
    shares = (any(texts) or much_alike(prompts, slots)) and shareable(model.network)
    whole = any(texts) and beyond and not shares
    usable = drafts is not None and sampling.greedy and _forgets(model) and (shares or not beyond)
    ahead = [list(d[: max(0, n - 1)]) if usable else [] for d, n in zip(drafts or prompts, room, strict=True)]
    lookup = lookup if _looks_up(model, sampling, longest + (lookup + 2) * sampling.max_new_tokens, shares) else 0
    rows_of = [
        Row(len(p) + len(d) + (0 if shares else n), max(len(d), lookup), (2 if lookup else 1) * r)  # read in vain
        for p, d, n, r in zip(prompts, ahead, shared, room, strict=True)
    ]
    batch = batch if plain_cache(model.network) else 1  # padding cannot be kept out of a state
    for rows in grouped(rows_of, batch, model, texts, one_text=not shares, one_length=whole):
        chosen = [slots[i] for i in rows] if slots is not None else None
        own = [texts[i] for i in rows]
        asked, likely = [prompts[i] for i in rows], [ahead[i] for i in rows]
        state = _Decoding(model, asked, likely, own, shares, shares and computes_once(model), bank, chosen)
        here = [
            _Answer(
                i,
                read := [*(text.ids if text else ()), *prompts[i]],
                sampling.numbered(numbers[i]),
                room[i],
                Copied(read, lookup),
            )
            for i, text in zip(rows, own, strict=True)
        ]
        _decode(state, here, on_step)
        answers |= {answer.number: answer.tokens for answer in here}
        if on_batch:
            on_batch(len(rows))
    return [answers[i] for i in range(len(prompts))]


def _looks_up(model: Model, sampling: Sampling, columns: int, shares: bool) -> bool:
    """Whether tokens are read ahead from what was said before: where a step is mostly its start, as on an accelerator
    or with a small network, so many rows of a few tokens take little longer than of one."""
    small = model.device.type != "cpu" or sum(p.numel() for p in model.network.parameters()) <= SMALL
    fits = shares or columns <= _window(model)
    return small and sampling.greedy and fits and _forgets(model)


def _forgets(model: Model) -> bool:
    """Whether what was read in vain can be taken back: a column of a cache, in a network that goes by positions."""
    return replaceable(model.network) and plain_cache(model.network)


def _window(model: Model) -> int:
    """The shortest window of a layer that slides: columns of a cache that nobody sees, such as padding between prefix
    and prompt and a draft that was wrong, would count in it."""
    layers: list[Any] = DynamicCache(config=model.network.config).layers
    return min((layer.sliding_window for layer in layers if getattr(layer, "is_sliding", False)), default=2**62)


class _Decoding:
    """The rows of one batch while they are being answered; finished rows leave it. A row's own tokens are the columns
    of its cache where `own_BS` is 1, at `position_BS`. `shares`: rows look at one copy of their text; with `once` what
    rows behind one text begin with is computed once too."""

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Ids],
        drafts: Sequence[Ids] = (),
        texts: Sequence[Prefix | None] = (),
        shares: bool = False,
        once: bool = False,
        bank: Bank | None = None,
        slots: list[int] | None = None,
    ):
        self.model, self.bank, self.slots = model, bank, slots
        texts, self.drafts = texts or [None] * len(prompts), drafts or [[]] * len(prompts)
        width, self.ahead = max(map(len, prompts)), max(map(len, self.drafts))
        pad = model.tokenizer.pad_token_id or 0
        rows, sides = [], []
        for prompt, draft in zip(prompts, self.drafts, strict=True):
            left, right = width - len(prompt), self.ahead - len(draft)
            rows.append([pad] * left + list(prompt) + list(draft) + [pad] * right)
            sides.append([0] * left + [1] * (len(prompt) + len(draft)) + [0] * right)
        self.ids_BT = torch.tensor(rows, device=model.device)
        self.own_BS = torch.tensor(sides, device=model.device)
        self.before_B1 = torch.tensor([[len(text.ids) if text else 0] for text in texts], device=model.device)
        self.position_BS = (self.own_BS.cumsum(1) - 1).clamp(min=0) + self.before_B1
        self.shared: Shared | None = None
        self._begun: Alike | None = None
        if shares:
            known = {id(text): Text(text.cache, len(text.ids)) for text in texts if text}
            self.cache, self.shared = DynamicCache(), Shared(model.network, [known.get(id(text)) for text in texts])
            if once:
                own = [[*prompt, *draft] for prompt, draft in zip(prompts, self.drafts, strict=True)]
                kinds = list(zip(map(id, texts), slots or [0] * len(own), strict=True))
                starts = [width - len(prompt) for prompt in prompts]
                self._begun = Alike(own, kinds, starts, width + self.ahead, model.device)
        else:  # one for all
            text = texts[0]
            self.cache = text.expand(len(prompts)) if text else DynamicCache(config=model.network.config)

    def step(self) -> Tensor:
        """Next-token logits_BKV in float32: after the prompt, and after each token of the longest draft."""
        if self.shared and self._begun:
            alike, self._begun = self._begun, None
            return self._first(self.shared, alike)
        position_BT = self.position_BS[:, -self.ids_BT.shape[1] :]
        looking: AbstractContextManager[None] = nullcontext()
        mask_BS = None
        if self.shared:
            looking = self.shared.looking(position_BT, self.position_BS, self.own_BS)
        else:
            before_BP = self.own_BS.new_ones(len(self.own_BS), int(self.before_B1[0]))
            mask_BS = torch.cat([before_BP, self.own_BS], dim=1)
        with looking, adapting(self.bank, self.slots, self.model):
            out = self.model.network(
                input_ids=self.ids_BT,
                attention_mask=mask_BS,
                position_ids=position_BT,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=self.ahead + 1,
            )
        logits_BKV: Tensor = out.logits.float()
        return logits_BKV

    def _first(self, shared: Shared, alike: Alike) -> Tensor:
        """The same from a forward of beginnings, each once."""
        slots = [self.slots[row] for row in alike.row_of] if self.slots is not None else None
        given_U1, position_U1 = (alike.once(s_BT)[:, None] for s_BT in (self.ids_BT, self.position_BS))
        with (
            shared.looking(self.position_BS, self.position_BS, self.own_BS, (alike, self.cache)),
            adapting(self.bank, slots, self.model),
        ):
            hidden_U1H = self.model.network.base_model(
                input_ids=given_U1, position_ids=position_U1, use_cache=False
            ).last_hidden_state
        place_R, at_BK = alike.place_BT[:, -self.ahead - 1 :].unique(return_inverse=True)
        logits_RV: Tensor = head(self.model)(hidden_U1H[place_R, 0])
        return logits_RV.float()[at_BK]

    def agreed(self, greedy_BK: Tensor) -> list[int]:
        """How many tokens of each row's draft are what greedy decoding says; the rest are forgotten."""
        if not self.ahead:
            return [0] * len(greedy_BK)
        found = []
        for draft, greedy in zip(self.drafts, greedy_BK.tolist(), strict=True):
            same = (i for i, (mine, said) in enumerate(zip(draft, greedy, strict=False)) if mine != said)
            found.append(next(same, len(draft)))
        wrong_BK = (
            torch.arange(self.ahead, device=greedy_BK.device) >= torch.tensor(found).to(greedy_BK.device)[:, None]
        )
        self.own_BS[:, -self.ahead :].masked_fill_(wrong_BK, 0)
        return found

    def append(self, tokens: Sequence[int], drafts: Sequence[Ids] | None = None) -> None:
        """The token that every row goes on with, and what may come after it."""
        drafts = drafts or [[]] * len(tokens)
        self.drafts, self.ahead = drafts, max(map(len, drafts))
        pad = self.model.tokenizer.pad_token_id or 0
        spare = [self.ahead - len(draft) for draft in drafts]
        rows = [[token, *draft, *[pad] * n] for token, draft, n in zip(tokens, drafts, spare, strict=True)]
        self.ids_BT = torch.tensor(rows, device=self.model.device)
        new_BT = torch.tensor([[1] * (1 + self.ahead - n) + [0] * n for n in spare], device=self.model.device)
        position_BT = self.own_BS.sum(1, keepdim=True) + new_BT.cumsum(1) - 1 + self.before_B1
        self.position_BS = torch.cat([self.position_BS, position_BT], dim=1)
        self.own_BS = torch.cat([self.own_BS, new_BT], dim=1)

    def keep(self, rows: list[int]) -> None:
        index = torch.tensor(rows, device=self.model.device)
        self.ids_BT, self.own_BS, self.position_BS, self.before_B1 = (
            s[index] for s in (self.ids_BT, self.own_BS, self.position_BS, self.before_B1)
        )
        if self.shared:
            self.shared.keep(rows)
        self.cache.batch_select_indices(index)
        self.drafts = [self.drafts[r] for r in rows]
        self.slots = [self.slots[r] for r in rows] if self.slots is not None else None


def computes_once(model: Model) -> bool:
    """Whether what rows begin with can be computed once for them, with everything else left as it is: a trial shows it,
    for networks look at a row's tokens by other means than attention, or make something else of their last state."""
    if model.network not in _ONCE:
        _ONCE[model.network] = _agrees(model)
    return _ONCE[model.network]


_ONCE: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


@torch.inference_mode()
def _agrees(model: Model) -> bool:
    some = [(7 * n + 5) % model.vocabulary for n in range(12)]
    try:
        text = prefill(model, some[:4])
        first, second = (_tried(model, text, [some[4:8], some[4:6]], [[], some[8:10]], once) for once in (True, False))
    except Exception:  # noqa: BLE001 - whatever a stranger's forward raises
        return False
    apart = ((a - b).norm(dim=-1) / b.norm(dim=-1) for a, b in zip(first, second, strict=True))
    close = 1e-3 if model.network.dtype == torch.float32 else 5e-2
    return all(bool((part <= close).all()) for part in apart)


def _tried(model: Model, text: Prefix, prompts: Sequence[Ids], drafts: Sequence[Ids], once: bool) -> list[Tensor]:
    """Logits of a first step and of one after it."""
    state = _Decoding(model, prompts, drafts, [text] * len(prompts), shares=True, once=once)
    found = [state.step()[:, 0]]
    state.append([prompt[0] for prompt in prompts])
    return [*found, state.step()[:, 0]]


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


@torch.inference_mode()
def _decode(state: _Decoding, answers: Sequence[_Answer], on_step: Callable[[list[int], Tensor], None] | None) -> None:
    """Make these answers; each ends at a stop token, or when it fills its room."""
    alive = [answer for answer in answers if answer.room]
    while alive:
        with for_steps(state.model.network, state.ids_BT.numel()):
            logits_BKV = state.step()
        steps = _next(state, alive, logits_BKV)
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
        state.append([tokens[-1] for tokens, _ in steps], drafts)
        if len(rest) < len(alive):
            state.keep(rest)
            alive = [alive[row] for row in rest]


def _next(state: _Decoding, answers: Sequence[_Answer], logits_BKV: Tensor) -> list[tuple[Ids, bool]]:
    """The tokens that each answer goes on with, up to the first stop token, it included, and whether there was one:
    of a draft as many as are right, and the one behind them."""
    if answers[0].sampling.greedy:
        greedy_BK = logits_BKV.argmax(-1)
        agreed = state.agreed(greedy_BK)
        tokens = [some[: n + 1] for some, n in zip(greedy_BK.tolist(), agreed, strict=True)]
    else:
        tokens = [[token] for token in next_tokens(logits_BKV[:, 0], [answer.draw for answer in answers])]
    return [_until_stop(some, state.model) for some in tokens]


def _until_stop(tokens: Ids, model: Model) -> tuple[Ids, bool]:
    at = next((i for i, token in enumerate(tokens) if token in model.stop_ids), None)
    return (tokens, False) if at is None else (tokens[: at + 1], True)


@torch.inference_mode()
def score(
    model: Model,
    sequences: Sequence[Ids],
    reduce: Callable[[int, Tensor], R],
    *,
    bank: Bank | None = None,
    slots: Sequence[int] | None = None,
    batch_tokens: int = 2048,
) -> list[R]:
    """`reduce(i, logits_TV)` for every sequence: the logits of all its positions, float32, freed afterwards."""
    results: dict[int, R] = {}
    for rows in batches([len(s) for s in sequences], batch_tokens):
        ids_BT, mask_BT = pad_right([sequences[i] for i in rows], model)
        chosen = [slots[i] for i in rows] if slots is not None else None
        with adapting(bank, chosen, model):
            hidden_BTH = model.network.base_model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        for i, hidden_TH in zip(rows, hidden_BTH, strict=True):
            results[i] = reduce(i, head(model)(hidden_TH[: len(sequences[i])]).float())
    return [results[i] for i in range(len(sequences))]


def adapting(bank: Bank | None, slots: Sequence[int] | None, model: Model) -> AbstractContextManager[Any]:
    """Inside, row i of a batch uses the adapter in `slots[i]` of the bank, if there is one."""
    wide = model.device.type == "cpu" and model.network.dtype == torch.float32 and built()  # always by the kernel then
    return bank.rows(slots, wide=wide) if bank else nullcontext()


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers in groups of similar length, each at most `batch_tokens` with padding (one row always fits)."""
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if group and lengths[i] * (len(group) + 1) > batch_tokens:
            yield group
            group = []
        group.append(i)
    if group:
        yield group
