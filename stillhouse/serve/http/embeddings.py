"""OpenAI's embeddings route: texts as vectors of the base's own hidden states.

In: texts or token ids. Out: per text one vector of length 1, as wide as the model's hidden states: the mean over the
states of its tokens behind the last layer, or the state of its last token. No chat template, no adapter: a user's
weights do not take part. A causal model that was not trained to embed gives vectors that are good for finding near
duplicates, and worse than an embedding model's for everything else.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from fastapi import APIRouter
from torch import Tensor

from ...errors import InputError
from ...generate import batches
from ...runners import BASE, Runner, Watch
from ..service import Service
from .auth import AppService, CallerKey, charge_tokens
from .completions import checked_tokens, user_and_version
from .schema import EmbeddingsBody

routes = APIRouter(prefix="/v1")


@routes.post("/embeddings")
async def embed(body: EmbeddingsBody, key: CallerKey, service: AppService) -> dict[str, Any]:
    """A vector for every text."""
    if user_and_version(service, body.model)[0]:
        raise InputError(f"model {body.model!r}: embeddings are the base's; ask {service.model.ref!r}")
    width = service.runner.width
    if body.dimensions not in (None, width):
        raise InputError(f"dimensions: {body.dimensions} is not allowed; this model's vectors have {width}, uncut")
    ids = await asyncio.to_thread(_ids, service, body)
    tokens = sum(map(len, ids))
    charge_tokens(service, key, tokens)
    vectors: dict[int, list[float] | str] = {}
    for rows in batches([len(i) for i in ids], service.config.engine.prefill_tokens):
        work = partial(pooled, service.runner, [ids[i] for i in rows], last=body.pooling == "last")
        pooled_NH = await asyncio.wrap_future(service.engine.between(work))
        vectors |= dict(zip(rows, map(partial(_encoded, body.encoding_format), pooled_NH), strict=True))
    return {
        "object": "list", "model": body.model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "data": [{"object": "embedding", "index": i, "embedding": vectors[i]} for i in range(len(ids))],
    }  # fmt: skip


def pooled(runner: Runner, ids: Sequence[Sequence[int]], *, last: bool = False) -> Tensor:
    """`[len(ids), width]` float32 on the CPU, each of length 1: the mean of a text's hidden states, or its last."""
    readings = runner.read(ids, [BASE] * len(ids), Watch(layers=(-1,)))
    states = [reading.states[0].float() for reading in readings]
    pooled_NH = torch.stack([states_TH[-1] if last else states_TH.mean(0) for states_TH in states])
    return torch.nn.functional.normalize(pooled_NH, dim=-1).cpu()


def _ids(service: Service, body: EmbeddingsBody) -> list[list[int]]:
    """The tokens of every text. `InputError`: one is empty, or longer than the model's context."""
    texts, room = [], service.engine.room
    for place, given in enumerate(body.inputs):
        ids = service.model.text_ids(given) if isinstance(given, str) else list(checked_tokens(service, given))
        if not 0 < len(ids) <= room:
            raise InputError(
                f"input {place} has {len(ids)} tokens; the model's context is {room}: 1 to {room} are allowed"
            )
        texts.append(ids)
    return texts


def _encoded(encoding: str, vector_H: Tensor) -> list[float] | str:
    """The numbers, or base64 of them as little-endian float32, which is what OpenAI's clients ask for."""
    if encoding == "float":
        return vector_H.tolist()
    return base64.b64encode(vector_H.numpy().astype("<f4").tobytes()).decode()
