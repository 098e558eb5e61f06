"""A teacher's shards as what a student with another tokenizer trains on.

In: shards, the bytes of the teacher's vocabulary, the student. Out: batches in the student's own tokens and chat
template. There is a loss for every chunk of bytes on which both tokenizers agree: the divergence of its binarised
likelihood under both (`losses/chunks.py`). Where a chunk is one token on both sides, the divergence from the teacher's
distribution is added. That is over the tokens that both know; all others count as one more token.

An answer that the student's tokenizer cannot spell is left out and counted. The module does not know optimisers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..losses import Objective, SparseTargets, sparse_divergence, through_head
from ..losses.chunks import chunk_divergence
from ..models import Model, align
from ..signals import Shard
from ..signals.columns import Ints, Targets, concatenate
from .same_tokens import Head, check_context, padded

CHUNK = 256  # positions through the LM head at once


@dataclass(frozen=True)
class TeacherVocabulary:
    """What the teacher's ids stand for."""

    tokens: Sequence[bytes]
    """The bytes of each id."""
    special: Sequence[bool]
    """Whether each id is a special token."""


@dataclass(frozen=True)
class _Aligned:
    """One example in the student's tokens. Per answer token its chunk (-1: none) and its row among the teacher's
    targets (-1: not one token on both sides); per chunk the teacher's log-likelihood."""

    x_ids: Ints
    first: int
    chunk_P: Ints
    row_P: Ints
    teacher_C: np.typing.NDArray[np.float32]


class AlignedTokens:
    """Feed for a student with its own tokenizer.

    `skipped` is how many examples could not be spelt or aligned, `kept` are the numbers of the others. `single` is the
    share of chunks that are one token on both sides.
    """

    def __init__(self, shards: Iterable[Shard], teacher: TeacherVocabulary, student: Model):
        read = list(shards)
        self._map_V = _table(teacher, student)
        self._targets = concatenate([shard.targets for shard in read]) if read else None
        examples, first = [], 0
        for shard in read:
            examples += [_example(shard, i, first, teacher, student) for i in range(len(shard))]
            first += len(shard.targets)
        self.kept = [i for i, e in enumerate(examples) if e is not None and len(e.teacher_C)]
        self._examples = [e for e in examples if e is not None and len(e.teacher_C)]
        self.skipped = len(examples) - len(self.kept)
        if not self._examples:
            raise InputError(
                f"none of {len(examples)} examples can be aligned with the student's tokenizer: it does not spell "
                "their text, or the signals hold no likelihoods (captured by an older version: capture again)"
            )
        self.lengths: Sequence[int] = [len(e.x_ids) for e in self._examples]
        self.positions: Sequence[int] = [len(e.teacher_C) for e in self._examples]
        singles = sum(int((e.row_P >= 0).sum()) for e in self._examples)
        self.single = singles / sum(self.positions)
        check_context(self.lengths, student.context)

    def batch(self, numbers: Sequence[int], pad: int, device: torch.device) -> AlignedBatch:
        examples = [self._examples[i] for i in numbers]
        ids_BT, mask_BT = padded([e.x_ids for e in examples], pad, device)
        row_P = np.concatenate([e.row_P for e in examples])
        starts = np.cumsum([0, *(len(e.teacher_C) for e in examples)])
        chunk_P = np.concatenate(
            [np.where(e.chunk_P < 0, -1, e.chunk_P + s) for e, s in zip(examples, starts, strict=False)]
        )
        at_P = np.concatenate([e.first + np.arange(len(e.chunk_P)) for e in examples])
        batch_P = np.repeat(np.arange(len(examples)), [len(e.chunk_P) for e in examples])
        places = (torch.from_numpy(x).to(device) for x in (batch_P, at_P, chunk_P))
        teacher_C = torch.from_numpy(np.concatenate([e.teacher_C for e in examples])).to(device)
        return AlignedBatch(ids_BT, mask_BT, Places(*places), self._sparse(row_P, device), teacher_C)

    def _sparse(self, row_P: Ints, device: torch.device) -> SparseTargets:
        """The teacher's entries under the student's ids; what has none, and the draws, are tail."""
        assert self._targets is not None, "a feed has shards"
        stored = self._targets.sparse(np.maximum(row_P, 0))
        ids_PK = self._map_V[stored.ids_PK]
        lost_PK = (ids_PK < 0) | torch.from_numpy(row_P < 0)[:, None]
        cut_P = torch.where(lost_PK, stored.logprobs_PK.exp(), 0).sum(-1)
        mapped = stored._replace(
            ids_PK=ids_PK.masked_fill(lost_PK, 0),
            logprobs_PK=stored.logprobs_PK.masked_fill(lost_PK, -torch.inf),
            tail_P=torch.where(torch.from_numpy(row_P >= 0), stored.tail_P + cut_P, 0),
            draw_weights_PD=torch.zeros_like(stored.draw_weights_PD),
            draw_ids_PD=torch.zeros_like(stored.draw_ids_PD),
        )
        return SparseTargets(*(t.to(device) for t in mapped))


class Places(NamedTuple):
    """Where the answer tokens of a batch are, and the chunk of each (-1: none)."""

    row_P: Tensor
    at_P: Tensor
    chunk_P: Tensor


class AlignedBatch:
    """Answer tokens at their `places`, the teacher's distributions there and its likelihood of every chunk."""

    def __init__(self, ids_BT: Tensor, mask_BT: Tensor, places: Places, targets: SparseTargets, teacher_C: Tensor):
        self.ids_BT, self.mask_BT, self.places = ids_BT, mask_BT, places
        self.targets, self.teacher_C = targets, teacher_C

    def where(self) -> tuple[Tensor, Tensor]:
        return self.places.row_P, self.places.at_P

    def losses(self, hidden_BTH: Tensor, head: Head, objective: Objective) -> Tensor:
        row_P, at_P, chunk_P = self.places
        labels_P = self.ids_BT[row_P, at_P]

        def part(logits_pV: Tensor, start: int) -> Tensor:
            here = slice(start, start + len(logits_pV))
            logits_pV = logits_pV.float()
            logprob_p = -torch.nn.functional.cross_entropy(logits_pV, labels_P[here], reduction="none")
            targets_p = SparseTargets(*(t[here] for t in self.targets))
            divergence_p = sparse_divergence(logits_pV, targets_p, objective.divergence, "ghost", objective.beta)
            return torch.stack([logprob_p, divergence_p], -1)

        both_P2 = through_head(hidden_BTH[row_P, at_P - 1], head, part, CHUNK)
        inside_P = chunk_P >= 0
        sums_C2 = both_P2.new_zeros(len(self.teacher_C), 2).index_add(0, chunk_P[inside_P], both_P2[inside_P])
        logprob_C, divergence_C = sums_C2.unbind(-1)
        distilled_C = chunk_divergence(logprob_C, self.teacher_C) + divergence_C
        return objective.alpha * distilled_C - (1 - objective.alpha) * logprob_C


def _table(teacher: TeacherVocabulary, student: Model) -> Tensor:
    """The student's id for each of the teacher's, -1 without one."""
    return torch.tensor(align.token_map(teacher.tokens, student.token_bytes, teacher.special))


def _example(shard: Shard, i: int, first: int, teacher: TeacherVocabulary, student: Model) -> _Aligned | None:
    rows = np.arange(shard.first_N1[i], shard.first_N1[i + 1])
    if not len(rows) or (np.diff(shard.targets.position_P[rows]) != 1).any():
        return None  # chunks are of neighbours: an answer with gaps cannot be aligned
    at, x_ids = int(shard.targets.position_P[rows[0]]), shard.x_ids[i].tolist()
    answer, context = x_ids[at : at + len(rows)], x_ids[:at]
    request = json.loads(shard.requests[i] or "null") if shard.requests else None
    ended = bool(answer) and teacher.special[answer[-1]]
    pieces = [teacher.tokens[t] for t in (answer[:-1] if ended else answer)]
    prompt = _prompt(request, context, teacher, student)
    lead = [] if prompt else [teacher.tokens[t] for t in context if not teacher.special[t]]
    text = align.whole_characters(b"".join([*lead, *pieces]))
    ids = student.text_ids(text.decode(errors="replace"))
    spelling = align.pieces(text, ids, student.token_bytes)
    if spelling is None or not (prompt or ids):
        return None
    usable = [
        c for c in align.chunks([*lead, *pieces], spelling) if c.teacher >= len(lead) and (prompt or c.student > 0)
    ]
    chunks = [c._replace(teacher=c.teacher - len(lead), teacher_end=c.teacher_end - len(lead)) for c in usable]
    end = student.tokenizer.eos_token_id
    if ended and isinstance(end, int):
        chunks.append(align.Chunk(len(pieces), len(pieces) + 1, len(ids), len(ids) + 1))
        ids = [*ids, end]
    return _aligned(prompt, ids, chunks, shard.targets, rows, first)


def _aligned(
    prompt: list[int], ids: list[int], chunks: Sequence[align.Chunk], targets: Targets, rows: Ints, first: int
) -> _Aligned | None:
    start = 0 if prompt else 1  # the very first token has nothing before it
    chunk_P, row_P = np.full(len(ids) - start, -1), np.full(len(ids) - start, -1)
    actual = targets.actual_P[rows]
    for number, c in enumerate(chunks):
        chunk_P[c.student - start : c.student_end - start] = number
        if c.single:
            row_P[c.student - start] = first + rows[c.teacher]
    teacher_C = np.array([actual[c.teacher : c.teacher_end].sum() for c in chunks], np.float32)
    if np.isnan(teacher_C).any():
        return None
    return _Aligned(np.array([*prompt, *ids], np.int64), len(prompt) + start, chunk_P, row_P, teacher_C)


def _prompt(
    request: dict[str, object] | None, context: list[int], teacher: TeacherVocabulary, student: Model
) -> list[int]:
    """What the student reads before the answer: its own template's rendering where the request is known."""
    if request is None:
        text = b"".join(teacher.tokens[t] for t in context)
        return student.text_ids(text.decode(errors="replace"))
    messages = request.get("messages")
    if messages:
        return student.chat_ids(messages)  # type: ignore[arg-type]
    return student.opened_ids(str(request.get("text", "")))
