"""Signals on disk: one `DistillArtifact` is one example, a Parquet shard is many.

In: what the student will see, and a teacher's sparse distribution at chosen positions. Out: a Parquet file that DuckDB
and pyarrow read without this package (`docs/formats/signals.md`), and the tensors a loss needs. Log-probabilities are
quantised to 1/1024 nat in 16 bits; what happened to the mass outside the exact entries is written in the shard.

It does not know where the signals came from, and no byte of a memory is in it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from .errors import StoreError
from .losses import SparseTargets

FORMAT = "1"
QUANTUM = 1024.0  # steps per nat
Kind = Literal["fact", "unknown", "anchor"]

_LISTS = {
    "x_ids": pa.int32(),
    "position": pa.int32(),
    "offset": pa.int32(),
    "count": pa.uint8(),
    "ids": pa.int32(),
    "logprobs": pa.uint16(),
    "tail": pa.uint16(),
    "draws": pa.uint8(),
    "draw_ids": pa.int32(),
    "draw_logprobs": pa.uint16(),
}
SCHEMA = pa.schema(
    [pa.field("kind", pa.string(), False), pa.field("statement", pa.int32()), pa.field("x_bytes", pa.binary(), False)]
    + [pa.field(name, pa.list_(pa.field("item", kind, False)), False) for name, kind in _LISTS.items()]
)


@dataclass(frozen=True)
class PositionTarget:
    """The teacher's distribution over the token that begins at byte `offset` of the example.

    `ids` are exact (most likely first), `tail` is the mass outside them, and each of `draw_ids`, drawn from that tail,
    stands for `tail / len(draw_ids)` of it. Log-probabilities are nats.
    """

    position: int  # index in x_ids of the token to predict
    offset: int
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    tail: float
    draw_ids: tuple[int, ...] = ()
    draw_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class DistillArtifact:
    """One example: `x_bytes` is all the student sees, `x_ids` the same in the shard's vocabulary."""

    kind: Kind
    statement: int | None
    x_bytes: bytes
    x_ids: tuple[int, ...]
    targets: tuple[PositionTarget, ...]


def write(artifacts: Sequence[DistillArtifact], about: Mapping[str, str]) -> bytes:
    """A shard's bytes. `about` (fingerprint of the teacher, vocabulary size, …) goes into the file's metadata."""
    metadata = {"stillhouse.format": FORMAT, "stillhouse.tail": "sampled", "stillhouse.quantum": str(QUANTUM)}
    schema = SCHEMA.with_metadata(metadata | {f"stillhouse.{k}": v for k, v in about.items()})
    table = pa.Table.from_pylist([_row(a) for a in artifacts], schema=schema)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=["kind"], write_statistics=False)
    return sink.getvalue()


def read(data: bytes) -> tuple[list[DistillArtifact], dict[str, str]]:
    """Artifacts and metadata of a shard. `StoreError` says what is wrong with a damaged or foreign one."""
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"signals shard cannot be read: {str(error).splitlines()[0]}") from error
    raw = table.schema.metadata or {}
    about = {k.decode().removeprefix("stillhouse."): v.decode() for k, v in raw.items() if k.startswith(b"stillhouse.")}
    if about.get("format") != FORMAT:
        raise StoreError(f"signals shard has format {about.get('format')!r}; this version reads {FORMAT!r}")
    if not table.schema.equals(SCHEMA):
        raise StoreError(f"signals shard has columns {_columns(table.schema)}; expected {_columns(SCHEMA)}")
    return [_artifact(row) for row in table.to_pylist()], about


def sparse_targets(targets: Sequence[PositionTarget], device: torch.device) -> SparseTargets:
    """Tensors of P positions: exact entries padded to the longest, draws likewise with weight zero."""
    n = len(targets)
    k = max((len(t.ids) for t in targets), default=1)
    d = max((len(t.draw_ids) for t in targets), default=0)
    ids, logprobs = np.zeros((n, k), np.int64), np.full((n, k), -np.inf, np.float32)
    draw_ids, draw_logprobs = np.zeros((n, d), np.int64), np.zeros((n, d), np.float32)
    weights, tail = np.zeros((n, d), np.float32), np.zeros(n, np.float32)
    for i, t in enumerate(targets):
        ids[i, : len(t.ids)], logprobs[i, : len(t.ids)] = t.ids, t.logprobs
        tail[i], drawn = t.tail, len(t.draw_ids)
        if drawn:
            draw_ids[i, :drawn], draw_logprobs[i, :drawn] = t.draw_ids, t.draw_logprobs
            weights[i, :drawn] = t.tail / drawn
    tensors = (ids, logprobs, tail, draw_ids, draw_logprobs, weights)
    return SparseTargets(*(torch.from_numpy(x).to(device) for x in tensors))


def position_targets(
    sparse: SparseTargets, positions: Sequence[int], offsets: Sequence[int], keep: float = 1e-4
) -> list[PositionTarget]:
    """Rows of `sparse` as records. Exact entries under probability `keep` join the tail when draws stand for it."""
    drawn = sparse.draw_ids_PD.shape[1]
    found = []
    for i, (position, offset) in enumerate(zip(positions, offsets, strict=True)):
        logprobs = sparse.logprobs_PK[i].tolist()
        tail = float(sparse.tail_P[i])
        k = max(1, sum(x > float(np.log(keep)) for x in logprobs)) if tail < keep else len(logprobs)
        cut = float(np.exp(logprobs[k:]).sum()) if k < len(logprobs) else 0.0
        use_draws = drawn and tail >= keep
        found.append(
            PositionTarget(
                position,
                offset,
                tuple(sparse.ids_PK[i, :k].tolist()),
                tuple(logprobs[:k]),
                tail + cut,
                tuple(sparse.draw_ids_PD[i].tolist()) if use_draws else (),
                tuple(sparse.draw_logprobs_PD[i].tolist()) if use_draws else (),
            )
        )
    return found


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _row(a: DistillArtifact) -> dict[str, Any]:
    flat = a.targets
    return {
        "kind": a.kind,
        "statement": a.statement,
        "x_bytes": a.x_bytes,
        "x_ids": list(a.x_ids),
        "position": [t.position for t in flat],
        "offset": [t.offset for t in flat],
        "count": [len(t.ids) for t in flat],
        "ids": [i for t in flat for i in t.ids],
        "logprobs": [_quantise(x) for t in flat for x in t.logprobs],
        "tail": [_quantise(float(np.log(t.tail)) if t.tail > 0 else -np.inf) for t in flat],
        "draws": [len(t.draw_ids) for t in flat],
        "draw_ids": [i for t in flat for i in t.draw_ids],
        "draw_logprobs": [_quantise(x) for t in flat for x in t.draw_logprobs],
    }


def _artifact(row: Mapping[str, Any]) -> DistillArtifact:
    _check(row)
    ids, draws = _groups(row["ids"], row["count"]), _groups(row["draw_ids"], row["draws"])
    logprobs, draw_logprobs = _groups(row["logprobs"], row["count"]), _groups(row["draw_logprobs"], row["draws"])
    targets = tuple(
        PositionTarget(position, offset, i, tuple(map(_value, lp)), _mass(tail), d, tuple(map(_value, dlp)))
        for position, offset, i, lp, tail, d, dlp in zip(
            row["position"], row["offset"], ids, logprobs, row["tail"], draws, draw_logprobs, strict=True
        )
    )
    return DistillArtifact(row["kind"], row["statement"], row["x_bytes"], tuple(row["x_ids"]), targets)


def _check(row: Mapping[str, Any]) -> None:
    """`StoreError` when a row's lists do not belong together: whoever trains on it indexes by them unchecked."""
    positions = len(row["position"])
    if row["kind"] not in get_args(Kind):
        raise StoreError(f"signals shard has an example of kind {row['kind']!r}; there are {', '.join(get_args(Kind))}")
    for name in ("offset", "count", "tail", "draws"):
        if len(row[name]) != positions:
            raise StoreError(f"signals shard is inconsistent: {positions} positions, {len(row[name])} of {name!r}")
    if not all(0 < at < len(row["x_ids"]) for at in row["position"]):
        raise StoreError(f"signals shard is inconsistent: a position outside its example of {len(row['x_ids'])} tokens")
    if not all(0 <= at <= len(row["x_bytes"]) for at in row["offset"]):
        raise StoreError(f"signals shard is inconsistent: an offset outside its example of {len(row['x_bytes'])} bytes")


def _groups(flat: Sequence[int], counts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    if sum(counts) != len(flat):
        raise StoreError(f"signals shard is inconsistent: {len(flat)} entries, counts say {sum(counts)}")
    start = 0
    for count in counts:
        yield tuple(flat[start : start + count])
        start += count


def _quantise(logprob: float) -> int:
    return 65535 if logprob <= -64 else min(65535, round(-min(logprob, 0.0) * QUANTUM))


def _value(quantised: int) -> float:
    return -quantised / QUANTUM


def _mass(quantised: int) -> float:
    return 0.0 if quantised == 65535 else float(np.exp(_value(quantised)))
