"""Signals on disk: what is written is read, to the last bit that the format keeps, by us and by anybody."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse import signals
from stillhouse.capture.prompts import Config
from stillhouse.errors import StoreError
from stillhouse.losses import SparseTargets, sparse_forward_kl
from stillhouse.signals import QUANTUM, SCHEMA, DistillArtifact, Kind, PositionTarget, position_targets, sparse_targets
from stillhouse.signals.sparsify import sparsify, sparsify_logits

LOGPROB = st.floats(-80.0, 0.0, allow_subnormal=False)
ID = st.integers(0, 2**31 - 1)
STEP = 0.5 / QUANTUM + 1e-5


@st.composite
def examples(draw: st.DrawFn) -> DistillArtifact:
    x_ids = tuple(draw(st.lists(ID, min_size=2, max_size=9)))
    x_bytes = draw(st.binary(max_size=30))
    targets = []
    for position in draw(st.lists(st.integers(1, len(x_ids) - 1), max_size=4)):
        ids = draw(st.lists(ID, min_size=1, max_size=5))
        drawn = draw(st.lists(ID, max_size=3))
        targets.append(
            PositionTarget(
                position,
                draw(st.integers(0, len(x_bytes))),
                tuple(ids),
                tuple(draw(LOGPROB) for _ in ids),
                draw(st.floats(0.0, 1.0)),
                tuple(drawn),
                tuple(draw(LOGPROB) for _ in drawn),
                draw(st.none() | LOGPROB),
            )
        )
    kinds: tuple[Kind, ...] = ("fact", "unknown", "anchor", "prompt")
    kind = draw(st.sampled_from(kinds))
    request = draw(st.none() | st.text(max_size=9))
    return DistillArtifact(kind, draw(st.none() | st.integers(0, 99)), x_bytes, x_ids, tuple(targets), request)


def near(left: float, right: float) -> bool:
    return abs(left - right) <= STEP or (left < -63.9 and right < -63.9)


def entries(ids: tuple[int, ...], logprobs: tuple[float, ...]) -> list[tuple[int, float]]:
    """Entries as a set with steps, 64 nats and more alike: entries of equal steps have no order of their own."""
    return sorted((i, min(round(-max(lp, -64) * QUANTUM), 64 * QUANTUM)) for i, lp in zip(ids, logprobs, strict=True))


@given(st.lists(examples(), max_size=5))
@settings(max_examples=60)
def test_a_shard_reads_back_within_its_quantum(written: list[DistillArtifact]) -> None:
    about = {"base": "ff" * 32, "note": "naïve"}
    found, metadata = signals.read(signals.write(written, about))
    assert metadata == about | {"format": signals.FORMAT, "tail": "sampled", "quantum": str(QUANTUM)}
    assert len(found) == len(written)
    for a, b in zip(found, written, strict=True):
        assert (a.kind, a.statement, a.request) == (b.kind, b.statement, b.request)
        assert (a.x_bytes, a.x_ids) == (b.x_bytes, b.x_ids)
        for s, t in zip(a.targets, b.targets, strict=True):
            assert (s.position, s.offset) == (t.position, t.offset)
            assert entries(s.ids, s.logprobs) == entries(t.ids, t.logprobs)
            assert entries(s.draw_ids, s.draw_logprobs) == entries(t.draw_ids, t.draw_logprobs)
            assert list(s.logprobs) == sorted(s.logprobs, reverse=True), "most likely first"
            assert (s.actual is None) == (t.actual is None)
            assert s.actual is None or t.actual is None or near(s.actual, t.actual)
            assert near(math.log(s.tail) if s.tail else -80.0, math.log(t.tail) if t.tail else -80.0)
    assert signals.read(signals.write(found, about))[0] == found, "reading and writing again changes nothing"


def sample(positions: int = 40, vocabulary: int = 90) -> tuple[DistillArtifact, torch.Tensor, SparseTargets]:
    logprobs_PV = torch.log_softmax(3 * torch.randn(positions, vocabulary), -1)
    sparse = sparsify(logprobs_PV, 16, 4, torch.Generator().manual_seed(0))
    targets = position_targets(sparse, range(1, positions + 1), range(positions))
    ids = tuple(range(positions + 1))
    return DistillArtifact("fact", 0, bytes(positions), ids, tuple(targets)), logprobs_PV, sparse


def test_the_loss_on_what_was_written_is_the_loss_on_what_was_captured() -> None:
    written, _, sparse = sample()
    (found,), _ = signals.read(signals.write([written], {}))
    logits_PV = torch.randn(40, 90)
    again = sparse_targets(found.targets, torch.device("cpu"))
    direct, read = (sparse_forward_kl(logits_PV, t) for t in (sparse, again))
    torch.testing.assert_close(read, direct, atol=6 / QUANTUM, rtol=0)
    mass_P = again.logprobs_PK.exp().sum(-1) + again.tail_P
    torch.testing.assert_close(mass_P, torch.ones(40), atol=2 / QUANTUM, rtol=0)


def test_a_certain_teacher_keeps_one_entry_and_no_draws() -> None:
    logits_PV = torch.zeros(1, 50)
    logits_PV[0, 7] = 40.0
    sparse = sparsify(torch.log_softmax(logits_PV, -1), 16, 4, torch.Generator().manual_seed(0))
    (target,) = position_targets(sparse, [3], [9])
    assert (target.ids, target.draw_ids) == ((7,), ())
    assert target.tail < 1e-4
    tensors = sparse_targets([target], torch.device("cpu"))
    assert tensors.draw_ids_PD.shape == (1, 0)


def test_anybody_reads_a_shard_with_sql(tmp_path: Path) -> None:
    """The query of docs/formats/signals.md: gaps summed up, steps divided, the first target's distribution."""
    written, _, _ = sample()
    path = tmp_path / "shard.parquet"
    path.write_bytes(signals.write([written, written], {"base": "abc"}))
    database = duckdb.connect()
    rows = database.execute(
        f"""SELECT kind, octet_length(x_bytes), position[2], "offset"[2], count[1],
                   [list_sum(ids[1:i]) FOR i IN range(1, count[1] + 1)],
                   [exp(l / -16.0) FOR l IN logprobs[1:count[1]]] FROM '{path}'"""
    ).fetchall()
    assert len(rows) == 2
    assert rows[0][:5] == ("fact", 40, 2, 1, 16)
    found = dict(zip(map(int, rows[0][5]), rows[0][6], strict=True))
    top = written.targets[0]
    assert set(found) == set(top.ids)
    for token, logprob in zip(top.ids, top.logprobs, strict=True):
        assert abs(math.log(found[token]) - logprob) <= STEP
    (quantum,) = database.execute(
        f"SELECT decode(value) FROM parquet_kv_metadata('{path}') WHERE decode(key) = 'stillhouse.quantum'"
    ).fetchall()
    assert quantum == ("16.0",)


def test_a_shard_of_format_1_is_read_for_ever() -> None:
    row = {
        "kind": "fact", "statement": 3, "x_bytes": b"abc", "x_ids": [5, 6, 7], "position": [1, 2], "offset": [1, 2],
        "count": [2, 1], "ids": [9, 4, 7], "logprobs": [512, 1024, 0], "tail": [2048, 65535], "draws": [2, 0],
        "draw_ids": [8, 8], "draw_logprobs": [4096, 4096],
    }  # fmt: skip
    meta = {"stillhouse.format": "1", "stillhouse.quantum": "1024.0", "stillhouse.base": "ab"}
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row], schema=signals.SCHEMAS["1"].with_metadata(meta)), sink)
    (found,), about = signals.read(sink.getvalue())
    assert about == {"format": "1", "quantum": "1024.0", "base": "ab"}
    first, second = found.targets
    assert (first.ids, first.logprobs, first.draw_ids) == ((9, 4), (-0.5, -1.0), (8, 8))
    assert abs(first.tail - math.exp(-2)) < 1e-6 and first.draw_logprobs == (-4.0, -4.0) and first.actual is None
    assert (second.ids, second.logprobs, second.tail, second.draw_ids) == ((7,), (0.0,), 0.0, ())
    assert (found.x_ids, found.statement) == ((5, 6, 7), 3)


@pytest.mark.parametrize(("slope", "most"), [(1.05, 53), (1.5, 40), (2.5, 30), (5.0, 17)])
def test_few_bytes_a_position_at_a_large_vocabulary(slope: float, most: float) -> None:
    """Probabilities fall with the rank's power: 0.1, 0.4, 0.75 and 0.96 for the first choice. Ids are spread evenly,
    which no real vocabulary does."""
    generator, positions, vocabulary = torch.Generator().manual_seed(0), 300, 151_936
    ranked_V = -slope * torch.arange(1, vocabulary + 1).log()
    sparse, _ = sparsify_logits(ranked_V.repeat(positions, 1), Config().sparsity, generator)
    name_V = torch.randperm(vocabulary, generator=generator)
    turn_P1 = torch.randint(vocabulary, (positions, 1), generator=generator)
    sparse = sparse._replace(
        ids_PK=name_V[(sparse.ids_PK + turn_P1) % vocabulary],
        draw_ids_PD=name_V[(sparse.draw_ids_PD + turn_P1) % vocabulary],
    )
    targets = position_targets(sparse, range(1, positions + 1), range(positions))
    x_ids = tuple(torch.randint(vocabulary, (positions + 1,), generator=generator).tolist())
    one = DistillArtifact("prompt", None, b"word" * positions, x_ids, tuple(targets))
    empty = len(signals.write([], {}))
    assert (len(signals.write([one], {})) - empty) / positions < most


def test_columns_and_records_are_the_same_thing() -> None:
    written = [sample(6)[0], DistillArtifact("prompt", None, b"", (1, 2), ()), sample(3)[0]]
    shard = signals.shard(written, {"base": "x"})
    assert shard.first_N1.tolist() == [0, 6, 6, 9]
    read = signals.read_shard(shard.to_bytes())
    assert read.artifacts() == signals.read(signals.write(written, {"base": "x"}))[0]
    some = read.targets.sparse(np.array([7, 0]))
    whole = read.targets.sparse()
    torch.testing.assert_close(some.logprobs_PK, whole.logprobs_PK[[7, 0]])
    torch.testing.assert_close(some.draw_weights_PD.sum(-1), some.tail_P)


def test_a_shard_that_was_cut_off_is_refused() -> None:
    whole = signals.write([sample()[0]], {})
    for length in [0, 3, 4, *range(8, len(whole), max(1, len(whole) // 40)), len(whole) - 1]:
        with pytest.raises(StoreError, match=r"^signals shard cannot be read: [^\n]+$"):
            signals.read(whole[:length])
    with pytest.raises(StoreError, match="cannot be read"):
        signals.read(b"PAR1" + bytes(range(200)) + b"PAR1")


def rewritten(change: Callable[[dict[str, Any]], object], metadata: dict[str, str] | None = None) -> bytes:
    """A shard of one example whose row was changed by somebody who knows the schema."""
    table = pq.read_table(io.BytesIO(signals.write([sample(4)[0]], {})))
    (row,) = table.to_pylist()
    change(row)
    known = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row], schema=SCHEMA.with_metadata(known | (metadata or {}))), sink)
    return sink.getvalue()


def set_to(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda row: row.__setitem__(name, value)


MALFORMED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "counts over ids": (lambda row: row["count"].__setitem__(0, 200), "inconsistent: [0-9]+ entries, counts say"),
    "an id too few": (lambda row: row["ids"].pop(), "inconsistent"),
    "a log-probability too many": (lambda row: row["logprobs"].append(1), "inconsistent"),
    "a draw too few": (lambda row: row["draw_ids"].pop(), "inconsistent"),
    "an offset too few": (lambda row: row["offset"].pop(), "4 positions, 3 of 'offset'"),
    "a count too many": (lambda row: row["count"].append(0), "4 positions, 5 of 'count'"),
    "a tail too few": (lambda row: row["tail"].pop(), "4 positions, 3 of 'tail'"),
    "draws of nobody": (lambda row: row["draws"].append(0), "4 positions, 5 of 'draws'"),
    "a position past the end": (lambda row: row["position"].__setitem__(0, 5), "a position outside its example"),
    "nothing before the position": (lambda row: row["position"].__setitem__(0, 0), "a position outside its example"),
    "an offset past the end": (lambda row: row["offset"].__setitem__(0, 5), "an offset outside its example"),
    "a kind of its own": (set_to("kind", "rumour"), "kind 'rumour'; there are fact, unknown, anchor, prompt"),
    "a gap backwards": (lambda row: row["ids"].__setitem__(1, -5), "a negative number among 'ids'"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_lists_that_do_not_belong_together_are_refused(name: str) -> None:
    change, message = MALFORMED[name]
    with pytest.raises(StoreError, match=message):
        signals.read(rewritten(change))


def test_another_format_or_other_columns_are_refused() -> None:
    assert signals.read(rewritten(lambda row: None))[0]
    with pytest.raises(StoreError, match="has format '3'; this version reads '1' and '2'"):
        signals.read(rewritten(lambda row: None, {"stillhouse.format": "3"}))
    for quantum in ("0", "many", "nan"):
        with pytest.raises(StoreError, match=r"has quantum .*; it is a positive number"):
            signals.read(rewritten(lambda row: None, {"stillhouse.quantum": quantum}))
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["not a shard"]}), sink)
    with pytest.raises(StoreError, match="has format None"):
        signals.read(sink.getvalue())
    meta = {"stillhouse.format": "1"}
    for columns in ({"x_ids": [[1, 2]]}, {name: ["text"] for name in SCHEMA.names}):
        sink = io.BytesIO()
        pq.write_table(pa.table(columns).replace_schema_metadata(meta), sink)
        with pytest.raises(StoreError, match=r"has columns .*; expected kind string, statement int32"):
            signals.read(sink.getvalue())


def test_tensors_pad_with_what_counts_for_nothing() -> None:
    targets = [
        PositionTarget(1, 0, (5,), (-0.1,), 0.0),
        PositionTarget(2, 3, (6, 7), (-0.5, -1.5), 0.2, (9, 9), (-3.0, -3.0)),
    ]
    tensors = sparse_targets(targets, torch.device("cpu"))
    assert tensors.ids_PK.tolist() == [[5, 0], [6, 7]]
    assert tensors.logprobs_PK[0, 1] == -np.inf
    torch.testing.assert_close(tensors.draw_weights_PD, torch.tensor([[0.0, 0.0], [0.1, 0.1]]))
    empty = sparse_targets([], torch.device("cpu"))
    assert empty.ids_PK.shape == (0, 1)
