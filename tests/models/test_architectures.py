"""Every real architecture goes through `consolidate` unchanged; weights that know nothing are rejected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stillhouse import consolidation
from stillhouse.capture.memory import Config as CaptureConfig
from stillhouse.consolidation import Settings
from stillhouse.models import Model
from stillhouse.serve.ask import ask
from stillhouse.store import Store
from stillhouse.train.adapter import Config as TrainConfig
from tests import architectures, tokenizers

MEMORY = "My dog is called Zorvik. The wifi password is plonk47."
SETTINGS = Settings(
    CaptureConfig(
        wordings=2, rounds=1, unknown_per_statement=2, decoys=4, anchor_texts=3, anchor_prompts=2, max_answer_tokens=6
    ),
    TrainConfig(rank=4, steps=3, warmup=1, facts=4, unknowns=2, anchors=2),
)
CASES = [
    *((name, tokenizers.WITH_SYSTEM) for name in sorted(architectures.ALL)),
    ("llama", None),
    ("qwen3", tokenizers.DROPS_SYSTEM),
    ("gemma2", tokenizers.REFUSES_SYSTEM),
    ("gemma3", tokenizers.REFUSES_SYSTEM),
]
NAMES = {None: "no template", tokenizers.WITH_SYSTEM: "system", tokenizers.DROPS_SYSTEM: "drops system"}


@pytest.mark.parametrize(("name", "template"), CASES, ids=[f"{n}, {NAMES.get(t, 'refuses system')}" for n, t in CASES])
def test_a_model_that_knows_nothing_is_rejected_and_the_base_answers(
    name: str, template: str | None, random_model: Callable[..., Model], tmp_path: Path
) -> None:
    model = random_model(name, template)
    result = consolidation.consolidate("alice", MEMORY, model=str(model.path), home=tmp_path, settings=SETTINGS)
    assert not result.approved
    assert "recall" in result.failed
    assert (result.value("recall") or 0.0) < 0.5
    assert result.coverage == 0.0
    assert result.tokens_saved > 10

    store = Store(tmp_path)
    (version,) = store.versions("alice")
    assert (version.approved, version.base, store.champion("alice")) == (False, model.fingerprint, None)
    report = json.loads((result.folder / "gate_report.json").read_text())
    assert report["passed"] is False
    assert (result.folder / "gate_report.html").stat().st_size > 1000
    assert store.verify() == []

    reply = ask(store, "What is my dog called?", user="alice", model=str(model.path), max_new_tokens=6)
    assert (reply.path, reply.version, reply.base) == ("base", None, model.fingerprint)
    assert reply.prompt_tokens == len(model.chat_ids([{"role": "user", "content": "What is my dog called?"}]))
