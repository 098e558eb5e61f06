"""PEFT's files: peft gives our logits, we give peft's, and every way a file can be wrong is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import peft_equal
from stillhouse.errors import ModelError
from stillhouse.export import peft

TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(2)}
CONFIG = {"peft_type": "LORA", "r": 2}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 still asks
@pytest.mark.parametrize("name", peft_equal.MODELS)
def test_logits_are_equal_in_both_directions(name: str, tmp_path: Path) -> None:
    difference, moved = peft_equal.ours_in_peft(name, tmp_path / "ours")
    assert difference <= 1e-4 < 0.1 < moved
    difference, moved = peft_equal.peft_in_ours(name, tmp_path / "theirs")
    assert difference <= 1e-4 < 0.1 < moved


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("targets", ["attention", "mlp"])
def test_logits_are_equal_for_chosen_targets(targets: str, tmp_path: Path) -> None:
    difference, moved = peft_equal.ours_in_peft("qwen3_moe_with_dense_layer", tmp_path, targets)
    assert difference <= 1e-4 < 0.1 < moved


def test_a_folder_reads_back_as_written(tmp_path: Path) -> None:
    peft.write(tmp_path / "v1", TENSORS, CONFIG)
    tensors, config = peft.read(tmp_path / "v1")
    assert config == CONFIG
    assert {n: t.tolist() for n, t in tensors.items()} == {n: t.tolist() for n, t in TENSORS.items()}
    assert sorted(p.name for p in (tmp_path / "v1").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert load_file(tmp_path / "v1" / peft.WEIGHTS)["b"].tolist() == TENSORS["b"].tolist()


def test_bytes_depend_on_the_tensors_alone() -> None:
    turned = {"a": TENSORS["a"].clone(), "b": TENSORS["b"].T.contiguous().T}
    assert peft.to_bytes(turned) == peft.to_bytes(TENSORS)
    assert peft.to_bytes(TENSORS | {"a": torch.zeros(2)}) != peft.to_bytes(TENSORS)


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -1])
def test_truncated_weights_are_refused(keep: int, tmp_path: Path) -> None:
    peft.write(tmp_path, TENSORS, CONFIG)
    whole = (tmp_path / peft.WEIGHTS).read_bytes()
    (tmp_path / peft.WEIGHTS).write_bytes(whole[:keep])
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors is not a whole safetensors file") as caught:
        peft.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_pickles_are_refused_and_missing_files_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors there"):
        peft.read(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="is a pickle, which can run code"):
        peft.read(tmp_path)
    peft.write(tmp_path, TENSORS, CONFIG)
    (tmp_path / peft.CONFIG).unlink()
    with pytest.raises(ModelError, match=r"adapter_config\.json is missing"):
        peft.read(tmp_path)


@pytest.mark.parametrize("content", ["{", "[1]", '"LORA"', "\x00"])
def test_a_config_that_is_no_object_is_refused(content: str, tmp_path: Path) -> None:
    peft.write(tmp_path, TENSORS, CONFIG)
    (tmp_path / peft.CONFIG).write_text(content)
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        peft.read(tmp_path)


def test_the_config_is_complete_json(tmp_path: Path) -> None:
    peft.write(tmp_path, TENSORS, CONFIG)
    assert json.loads((tmp_path / peft.CONFIG).read_text()) == CONFIG
