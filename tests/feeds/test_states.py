"""Inner states beside the signals: kept in 8 bits, matched through a projection, refused where there are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
import torch

from stillhouse.capture import prompts
from stillhouse.capture.prompts import Captured
from stillhouse.capture.prompts.states import Config as Traces
from stillhouse.capture.prompts.states import record, watched
from stillhouse.errors import InputError, StoreError
from stillhouse.feeds.same_tokens import SameTokens
from stillhouse.feeds.states import TracedFeed
from stillhouse.generate import pad_right
from stillhouse.lora import LoraConfig
from stillhouse.models import Model
from stillhouse.teachers.local import Local
from stillhouse.text.corpus import anchors
from stillhouse.train.full import Config, train
from tests import architectures, tokenizers

Make = Callable[..., Model]
SMALL = Config(batch_tokens=160, learning_rate=1e-2, mixed="off", epochs=6.0, hidden=1.0)


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, random_model: Make) -> Captured:
    data = [prompts.Example(answer=text[:70]) for text in anchors(9)]
    folder = tmp_path_factory.mktemp("signals")
    return prompts.capture(Local.of(random_model("qwen3_moe")), data, prompts.Config(shard_examples=4), folder)


BOTH = Traces()


def feed(model: Model, captured: Captured, traces: Traces = BOTH) -> TracedFeed:
    plain = SameTokens(captured.read(), model.vocabulary, model.context)
    return TracedFeed(plain, record(model, captured, traces))


def student(model: Model, size: int, layers: int = 2) -> Model:
    made = architectures.qwen3_moe(tokenizers.VOCABULARY, 7, hidden_size=size, num_hidden_layers=layers)
    return replace(model, network=made.requires_grad_(False))


def test_traces_are_what_the_teacher_thought(random_model: Make, captured: Captured) -> None:
    model = random_model("qwen3_moe")
    traced = feed(model, captured)
    ids_of = [ids.tolist() for shard in captured.read() for ids in shard.x_ids]
    batch = traced.batch([0, 5, 2], 0, model.device)
    ids_BT, mask_BT = pad_right([ids_of[i] for i in (0, 5, 2)], model)
    with watched(model.network, (0.5, 1.0), True) as seen, torch.no_grad():
        model.network.base_model(input_ids=ids_BT, attention_mask=mask_BT)
    row_P, at_P = batch.where()
    for layer in (0.5, 1.0):
        exact = seen.hidden[layer][row_P, at_P - 1]
        apart = (batch.states.hidden[layer] - exact).norm(dim=-1) / exact.norm(dim=-1)
        assert float(apart.max()) < 0.02, "8 bits"
        logprobs = seen.router[layer].view(*ids_BT.shape, -1)[row_P, at_P - 1].log_softmax(-1)
        kept = batch.states.experts[layer]
        torch.testing.assert_close(kept.logprobs_PK, logprobs.gather(-1, kept.ids_PK), rtol=1e-4, atol=1e-4)
    (file, *_) = sorted(captured.folder.glob("traces-*.parquet"))
    with duckdb.connect() as db:
        size = db.execute(f"select max(len(hidden)), count(distinct layer) from '{file}'").fetchall()
    assert size[0][0] % 32 == 0 and size[0][1] == 2
    before = file.stat().st_mtime_ns
    record(model, captured, Traces())
    assert file.stat().st_mtime_ns == before, "written once"


@pytest.mark.parametrize("lora", [None, LoraConfig(4, 8.0)], ids=["all", "lora"])
def test_a_student_of_another_width_and_depth_comes_nearer(
    random_model: Make, captured: Captured, lora: LoraConfig | None, tmp_path: Path
) -> None:
    model = random_model("qwen3_moe")
    config = replace(SMALL, lora=lora, routing=0.5, checkpoint_every=3)
    found = train(student(model, 24, 4), feed(model, captured), config, tmp_path)
    plain = train(student(model, 24, 4), feed(model, captured), replace(config, hidden=0.0, routing=0.0))
    assert found.losses[0] > plain.losses[0] + 0.5, "what is matched is counted"
    assert found.losses[-1] - plain.losses[-1] < 0.9 * (found.losses[0] - plain.losses[0])
    again = train(student(model, 24, 4), feed(model, captured), config, tmp_path)
    assert again.losses == found.losses, "the projections are in the checkpoint"
    for one in (found, plain, again):
        if one.bank:
            one.bank.detach()


def test_what_cannot_be_matched_is_refused(random_model: Make, captured: Captured, tmp_path: Path) -> None:
    model = random_model("qwen3_moe")
    plain = SameTokens(captured.read(), model.vocabulary, model.context)
    with pytest.raises(InputError, match=r"train.hidden: no traces of the teacher"):
        train(student(model, 32), plain, SMALL)
    with pytest.raises(InputError, match=r"train.hidden: the traces hold no hidden states"):
        train(student(model, 32), feed(model, captured, Traces(hidden=False)), SMALL)
    with pytest.raises(InputError, match=r"train.routing: the teacher has no routers"):
        train(student(model, 32), feed(model, captured, Traces(experts=0)), replace(SMALL, routing=1.0))
    dense = replace(model, network=architectures.qwen3(tokenizers.VOCABULARY, 7).requires_grad_(False))
    with pytest.raises(InputError, match=r"train.routing: the student has no router at 0.5"):
        train(dense, feed(model, captured), replace(SMALL, routing=1.0))
    with pytest.raises(InputError, match=r"inner states are matched by one student"):
        slots = [i % 2 for i in range(len(plain.lengths))]
        train(student(model, 32), feed(model, captured), replace(SMALL, lora=LoraConfig()), slots=slots)
    with pytest.raises(InputError, match=r"traces: the teacher reads a system message"):
        record(model, replace(captured, config={"teacher_system": "x"}), Traces())
    with pytest.raises(InputError, match=r"traces.layers: 1.5 is not a share of the depth"):
        Traces(layers=(1.5,))
    (file, *_) = sorted(captured.folder.glob("traces-*.parquet"))
    content = file.read_bytes()
    file.write_bytes(content[:100])
    with pytest.raises(StoreError, match="cannot be read"):
        record(model, captured, Traces())
        record(model, captured, Traces(experts=0))
        record(model, captured, Traces(hidden=False))
    file.write_bytes(content)
    assert all(np.isfinite(one.scale_LP).all() for one in record(model, captured, BOTH))
