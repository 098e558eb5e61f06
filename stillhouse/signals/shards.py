"""Signals on disk: a `DistillArtifact` is one example, a Parquet shard holds many.

In: what the student will see, and a teacher's sparse distribution at chosen positions. Out: a Parquet file that DuckDB
and pyarrow read without this package (`docs/formats/signals.md`), and the tensors a loss needs. Log-probabilities are
quantised to 1/16 nat, and ids are stored as gaps. The shard records what its tail consists of: draws, or the mass
alone. Shards of format 1 (1/1024 nat, plain ids) stay readable.

This module does not know where the signals come from. No byte of a memory is in a shard.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from ..errors import StoreError
from ..losses import SparseTargets
from .columns import (
    DEEPEST,
    NOTHING,
    Floats,
    Ints,
    Targets,
    flat_array,
    from_gaps,
    nats,
    per_position,
    quantise,
    to_gaps,
)

FORMAT = "2"
QUANTUM = 16.0  # steps per nat
Kind = Literal["fact", "unknown", "anchor", "prompt"]

_LISTS = {
    "x_ids": pa.int32(),
    "position": pa.int32(),
    "offset": pa.int32(),
    "actual": pa.uint16(),
    "count": pa.uint8(),
    "ids": pa.int32(),
    "logprobs": pa.uint16(),
    "tail": pa.uint16(),
    "draws": pa.uint8(),
    "draw_ids": pa.int32(),
    "draw_logprobs": pa.uint16(),
}
_PER_POSITION = ("offset", "actual", "count", "tail", "draws")


def _schema(lists: Mapping[str, pa.DataType]) -> pa.Schema:
    plain = [pa.field("kind", pa.string(), False), pa.field("statement", pa.int32())]
    request = [pa.field("request", pa.string())] if "actual" in lists else []
    x_bytes = pa.field("x_bytes", pa.binary(), False)
    return pa.schema([*plain, *request, x_bytes, *(_list(n, t) for n, t in lists.items())])


def _list(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, pa.list_(pa.field("item", kind, False)), False)


SCHEMA = _schema(_LISTS)
SCHEMAS = {"1": _schema({n: t for n, t in _LISTS.items() if n != "actual"}), FORMAT: SCHEMA}


@dataclass(frozen=True)
class PositionTarget:
    """The teacher's distribution over the token that begins at byte `offset` of the example.

    `ids` are exact (most likely first), `tail` is the mass outside them, and each of `draw_ids`, drawn from that tail,
    stands for `tail / len(draw_ids)` of it. `actual` is for the token that stands there. Log-probabilities are nats.
    """

    position: int  # index in x_ids of the token to predict
    offset: int
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    tail: float
    draw_ids: tuple[int, ...] = ()
    draw_logprobs: tuple[float, ...] = ()
    actual: float | None = None


@dataclass(frozen=True)
class DistillArtifact:
    """One example: `x_bytes` is all the student sees, `x_ids` the same in the shard's vocabulary.

    `request` is what was asked, before any chat template: JSON with `messages` or `text`, for students whose template
    is another.
    """

    kind: Kind
    statement: int | None
    x_bytes: bytes
    x_ids: tuple[int, ...]
    targets: tuple[PositionTarget, ...]
    request: str | None = None


@dataclass(frozen=True)
class Shard:
    """N examples as columns: example i has the positions `first_N1[i]` to `first_N1[i + 1]` of `targets`."""

    kinds: tuple[Kind, ...]
    statements: tuple[int | None, ...]
    x_bytes: tuple[bytes, ...]
    x_ids: tuple[Ints, ...]
    first_N1: Ints
    targets: Targets
    about: Mapping[str, str]
    requests: tuple[str | None, ...] = ()  # empty: none is known

    def __len__(self) -> int:
        return len(self.kinds)

    def to_bytes(self, quantum: float = QUANTUM) -> bytes:
        """The Parquet file."""
        metadata = {"stillhouse.format": FORMAT, "stillhouse.tail": "sampled", "stillhouse.quantum": str(quantum)}
        schema = SCHEMA.with_metadata(metadata | {f"stillhouse.{k}": v for k, v in self.about.items()})
        sink = io.BytesIO()
        split = {f"{n}.list.element": "BYTE_STREAM_SPLIT" for n in _LISTS if n not in (*_SMALL, "position", "offset")}
        near = {f"{n}.list.element": "DELTA_BINARY_PACKED" for n in ("position", "offset")}
        pq.write_table(
            pa.Table.from_arrays(_arrays(self, quantum), schema=schema),
            sink,
            compression="zstd",
            compression_level=15,
            use_dictionary=["kind", *(f"{n}.list.element" for n in _SMALL)],
            column_encoding=split | near,
            write_statistics=False,
        )
        return sink.getvalue()

    def artifacts(self) -> list[DistillArtifact]:
        """Every example as a record."""
        t = self.targets
        entries = per_position(t.count_P, t.ids, t.logprobs)
        draws = per_position(t.draws_P, t.draw_ids, t.draw_logprobs)
        plain = zip(
            t.position_P.tolist(), t.offset_P.tolist(), t.tail_P.tolist(), t.actual_P.tolist(), entries, draws,
            strict=True,
        )  # fmt: skip
        records = [
            PositionTarget(at, offset, ids, lp, tail, d, dlp, None if actual != actual else actual)
            for at, offset, tail, actual, (ids, lp), (d, dlp) in plain
        ]
        ends = self.first_N1.tolist()
        return [
            DistillArtifact(
                self.kinds[i],
                self.statements[i],
                self.x_bytes[i],
                tuple(self.x_ids[i].tolist()),
                tuple(records[ends[i] : ends[i + 1]]),
                self.requests[i] if self.requests else None,
            )
            for i in range(len(self))
        ]


_SMALL = ("count", "draws")


def shard(artifacts: Sequence[DistillArtifact], about: Mapping[str, str]) -> Shard:
    """Records as columns."""
    first_N1 = np.cumsum([0, *(len(a.targets) for a in artifacts)])
    return Shard(
        tuple(a.kind for a in artifacts),
        tuple(a.statement for a in artifacts),
        tuple(a.x_bytes for a in artifacts),
        tuple(np.array(a.x_ids, np.int64) for a in artifacts),
        first_N1,
        columns([t for a in artifacts for t in a.targets]),
        about,
        tuple(a.request for a in artifacts),
    )


def write(artifacts: Sequence[DistillArtifact], about: Mapping[str, str], quantum: float = QUANTUM) -> bytes:
    """A shard's bytes. `about` (fingerprint of the teacher, vocabulary size, …) goes into the file's metadata."""
    return shard(artifacts, about).to_bytes(quantum)


def read(data: bytes) -> tuple[list[DistillArtifact], dict[str, str]]:
    """Artifacts and metadata of a shard. `StoreError` says what is wrong with a damaged or foreign one."""
    whole = read_shard(data)
    return whole.artifacts(), dict(whole.about)


def read_shard(data: bytes) -> Shard:
    """A shard as columns. `StoreError` says what is wrong with a damaged or foreign one."""
    try:
        table = pq.ParquetFile(io.BytesIO(data)).read()  # `read_table` imports pandas first, if it is there
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"signals shard cannot be read: {str(error).splitlines()[0]}") from error
    raw = table.schema.metadata or {}
    about = {k.decode().removeprefix("stillhouse."): v.decode() for k, v in raw.items() if k.startswith(b"stillhouse.")}
    version = about.get("format")
    if version not in SCHEMAS:
        raise StoreError(f"signals shard has format {version!r}; this version reads {' and '.join(map(repr, SCHEMAS))}")
    if not table.schema.equals(SCHEMAS[version]):
        raise StoreError(f"signals shard has columns {_spell(table.schema)}; expected {_spell(SCHEMAS[version])}")
    return _shard(table, about)


def columns(targets: Sequence[PositionTarget]) -> Targets:
    """Records of P positions as columns."""
    counts, draws = [len(t.ids) for t in targets], [len(t.draw_ids) for t in targets]
    return Targets(
        np.array([t.position for t in targets], np.int64),
        np.array([t.offset for t in targets], np.int64),
        np.array([np.nan if t.actual is None else t.actual for t in targets], np.float32),
        np.array([t.tail for t in targets], np.float32),
        np.array(counts, np.int64),
        flat_array([t.ids for t in targets], np.int64),
        flat_array([t.logprobs for t in targets], np.float32),
        np.array(draws, np.int64),
        flat_array([t.draw_ids for t in targets], np.int64),
        flat_array([t.draw_logprobs for t in targets], np.float32),
    )


def sparse_targets(targets: Sequence[PositionTarget], device: torch.device) -> SparseTargets:
    """Tensors of P positions: exact entries padded to the longest, draws likewise with weight zero."""
    return columns(targets).sparse(device=device)


def position_targets(
    sparse: SparseTargets, positions: Sequence[int], offsets: Sequence[int], keep: float = 1e-4
) -> list[PositionTarget]:
    """Rows of `sparse` as records. Exact entries under probability `keep` join the tail where it is as small."""
    ids, draw_ids, draw_logprobs = (t.tolist() for t in (sparse.ids_PK, sparse.draw_ids_PD, sparse.draw_logprobs_PD))
    every_logprob, tails = sparse.logprobs_PK.tolist(), sparse.tail_P.tolist()
    draws = (sparse.draw_weights_PD > 0).sum(1).tolist()
    least = float(np.log(keep))
    records = []
    for i, (position, offset) in enumerate(zip(positions, offsets, strict=True)):
        logprobs, tail = every_logprob[i], tails[i]
        k = max(1, sum(x > (least if tail < keep else -np.inf) for x in logprobs))
        drawn = draws[i] if tail >= keep else 0
        records.append(
            PositionTarget(
                position,
                offset,
                tuple(ids[i][:k]),
                tuple(logprobs[:k]),
                tail + sum(map(exp, logprobs[k:])),
                tuple(draw_ids[i][:drawn]),
                tuple(draw_logprobs[i][:drawn]),
            )
        )
    return records


def _arrays(shard: Shard, quantum: float) -> list[pa.Array]:
    t = shard.targets
    logprobs, drawn = quantise(t.logprobs, quantum), quantise(t.draw_logprobs, quantum)
    gaps, logprobs = to_gaps(t.count_P, t.ids, logprobs)
    draw_gaps, drawn = to_gaps(t.draws_P, t.draw_ids, drawn)
    with np.errstate(divide="ignore"):
        tail = quantise(np.log(np.maximum(t.tail_P, 0)), quantum)
    actual = quantise(np.maximum(t.actual_P, -DEEPEST + 1 / quantum), quantum)
    first = shard.first_N1
    entries, draws = _ends(t.count_P)[first], _ends(t.draws_P)[first]
    x_ends = _ends(np.array([len(x) for x in shard.x_ids], np.int64))
    flat: dict[str, tuple[NDArray[Any], Ints]] = {
        "x_ids": (np.concatenate([np.zeros(0, np.int64), *shard.x_ids]), x_ends),
        "position": (t.position_P, first), "offset": (t.offset_P, first), "actual": (actual, first),
        "count": (t.count_P, first), "ids": (gaps, entries), "logprobs": (logprobs, entries), "tail": (tail, first),
        "draws": (t.draws_P, first), "draw_ids": (draw_gaps, draws), "draw_logprobs": (drawn, draws),
    }  # fmt: skip
    plain = [
        pa.array(shard.kinds, pa.string()),
        pa.array(shard.statements, pa.int32()),
        pa.array(shard.requests or (None,) * len(shard), pa.string()),
        pa.array(shard.x_bytes, pa.binary()),
    ]
    return plain + [
        pa.ListArray.from_arrays(
            pa.array(ends, pa.int32()), pa.array(values).cast(_LISTS[name]), type=SCHEMA.field(name).type
        )
        for name, (values, ends) in flat.items()
    ]


def _shard(table: pa.Table, about: dict[str, str]) -> Shard:
    lists = {n: table.column(n).combine_chunks() for n in table.schema.names if n in _LISTS}
    sizes = {n: np.asarray(c.value_lengths(), np.int64) for n, c in lists.items()}
    flat = {n: np.asarray(c.flatten()) for n, c in lists.items()}
    kinds, x_bytes = table.column("kind").to_pylist(), table.column("x_bytes").to_pylist()
    x_ends = np.cumsum(sizes["x_ids"])
    _check(kinds, np.array([len(x) for x in x_bytes], np.int64), flat, sizes)
    return Shard(
        tuple(kinds),
        tuple(table.column("statement").to_pylist()),
        tuple(x_bytes),
        tuple(np.split(flat["x_ids"], x_ends[:-1])) if len(x_ends) else (),
        _ends(sizes["position"]),
        _targets(flat, _quantum(about), about["format"]),
        about,
        tuple(table.column("request").to_pylist()) if "request" in table.schema.names else (),
    )


def _quantum(about: Mapping[str, str]) -> float:
    try:
        quantum = float(about["quantum"])
    except (KeyError, ValueError):
        quantum = 0.0
    if not quantum > 0:
        raise StoreError(
            f"signals shard has quantum {about.get('quantum')!r}; it is a positive number of steps per nat"
        )
    return quantum


def _targets(flat: Mapping[str, NDArray[Any]], quantum: float, version: str) -> Targets:
    count_P, draws_P = flat["count"].astype(np.int64), flat["draws"].astype(np.int64)
    ids, steps, draw_ids, draw_steps = flat["ids"], flat["logprobs"], flat["draw_ids"], flat["draw_logprobs"]
    actual = flat.get("actual", np.full(len(count_P), NOTHING))
    if version != "1":
        ids, steps = from_gaps(count_P, ids, steps)
        draw_ids, draw_steps = from_gaps(draws_P, draw_ids, draw_steps)
    return Targets(
        flat["position"],
        flat["offset"],
        np.where(actual == NOTHING, np.nan, nats(actual, quantum)).astype(np.float32),
        _mass(flat["tail"], quantum),
        count_P,
        ids.astype(np.int64),
        nats(steps, quantum),
        draws_P,
        draw_ids.astype(np.int64),
        nats(draw_steps, quantum),
    )


def _check(kinds: Sequence[str], bytes_N: Ints, flat: Mapping[str, NDArray[Any]], sizes: Mapping[str, Ints]) -> None:
    """`StoreError` when a row's lists do not belong together: whoever trains on it indexes by them unchecked."""
    if strange := sorted(set(kinds) - set(get_args(Kind))):
        raise StoreError(f"signals shard has an example of kind {strange[0]!r}; there are {', '.join(get_args(Kind))}")
    positions_N = sizes["position"]
    for name in (n for n in _PER_POSITION if n in sizes):
        if (wrong := np.flatnonzero(sizes[name] != positions_N)).size:
            i = wrong[0]
            mismatch = f"{positions_N[i]} positions, {sizes[name][i]} of {name!r}"
            raise StoreError(f"signals shard is inconsistent: {mismatch}")
    row_P = np.repeat(np.arange(len(kinds)), positions_N)
    for counts, *names in (("count", "ids", "logprobs"), ("draws", "draw_ids", "draw_logprobs")):
        count_N = np.bincount(row_P, flat[counts], len(kinds)).astype(np.int64)
        for name in names:
            if (wrong := np.flatnonzero(sizes[name] != count_N)).size:
                i = wrong[0]
                raise StoreError(f"signals shard is inconsistent: {sizes[name][i]} entries, counts say {count_N[i]}")
    _check_places(flat, row_P, sizes["x_ids"], bytes_N)


def _check_places(flat: Mapping[str, NDArray[Any]], row_P: Ints, tokens_N: Ints, bytes_N: Ints) -> None:
    at, offset = flat["position"], flat["offset"]
    if (wrong := np.flatnonzero((at <= 0) | (at >= tokens_N[row_P]))).size:
        there = f"a position outside its example of {tokens_N[row_P[wrong[0]]]} tokens"
        raise StoreError(f"signals shard is inconsistent: {there}")
    if (wrong := np.flatnonzero((offset < 0) | (offset > bytes_N[row_P]))).size:
        there = f"an offset outside its example of {bytes_N[row_P[wrong[0]]]} bytes"
        raise StoreError(f"signals shard is inconsistent: {there}")
    for name in ("x_ids", "ids", "draw_ids"):
        if len(flat[name]) and int(flat[name].min()) < 0:
            raise StoreError(f"signals shard is inconsistent: a negative number among {name!r}")


def _mass(steps: NDArray[Any], quantum: float) -> Floats:
    return np.where(steps == NOTHING, 0, np.exp(-steps.astype(np.float64) / quantum)).astype(np.float32)


def _ends(sizes: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _spell(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
