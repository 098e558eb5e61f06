"""Where a student comes from: a model as it is, some layers of one, random weights of a given shape, another tokenizer.

In: a `Student` table, the teacher, texts to train a new tokenizer on, an empty folder. Out: a `Model` whose weights lie
in that folder. A new tokenizer's embeddings start as the mean of the old embeddings of each token's text, so what the
layers know is not lost.

It does not know signals or losses.
"""

from __future__ import annotations

import copy
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from .. import models
from ..errors import InputError, first_line
from ..feeds.on_policy import OnPolicy
from ..models import Device, Model, TextModel
from ..storage.files import sync_folder
from ..train import full


@dataclass(frozen=True)
class NewTokenizer:
    """A byte-level BPE that is trained on the data."""

    vocabulary: int = 2048
    """How many tokens it has at most: at least 260, which are the bytes and an end."""
    single_digits: bool = False
    """Whether each digit is a token of its own."""

    def __post_init__(self) -> None:
        if self.vocabulary < 260:
            raise InputError(
                f"new_tokenizer.vocabulary: {self.vocabulary} is too small; at least 260: the bytes and an end"
            )


@dataclass(frozen=True)
class Student:
    """Where a student's weights and its tokenizer come from, and how it is trained."""

    model: str = ""
    """Where weights come from: a folder or a hub id, "" for the teacher."""
    layers: tuple[int, ...] = ()
    """The layers that are kept, counted from 0, in this order; () for all."""
    scratch: dict[str, Any] = field(default_factory=dict)
    """A Hugging Face configuration with its `model_type`: random weights of that shape. Not with `model`, `layers`."""
    tokenizer: str = ""
    """Another tokenizer: a folder or a hub id. "" is the model's own, with `scratch` the teacher's."""
    new_tokenizer: NewTokenizer | None = None
    """Another tokenizer, trained on the data. Without `tokenizer`."""
    train: full.Config = field(default_factory=full.Config)
    """How it is trained (`train/full.py`)."""
    on_policy: OnPolicy | None = None
    """Lets the student write in a share of the batches; None: it learns from stored signals alone."""

    def __post_init__(self) -> None:
        if self.scratch and (self.model or self.layers):
            raise InputError("student: scratch makes random weights; model and layers take them from somewhere: choose")
        if self.tokenizer and self.new_tokenizer:
            raise InputError("student: tokenizer and new_tokenizer are both given: choose")
        if self.scratch and "model_type" not in self.scratch:
            raise InputError('student.scratch: missing "model_type", for example "qwen3"')

    @property
    def as_it_is(self) -> bool:
        """Whether nothing is to be made: the weights are used where they lie."""
        return not (self.layers or self.scratch or self.tokenizer or self.new_tokenizer)


def build(
    student: Student,
    teacher: Model,
    texts: Sequence[str],
    folder: Path,
    device: Device,
    seed: int,
    home: Path | None = None,
) -> Model:
    """The student, loaded. `folder` is written whole or not at all, and taken as it is when it is there."""
    if student.as_it_is:
        return models.load(student.model or teacher.ref, device, home)
    if not folder.exists():
        base = teacher if student.model in ("", teacher.ref) else models.load(student.model, "cpu", home)
        tokenizer = _tokenizer(student, base, texts, home)
        network = (
            _random(student, base, len(tokenizer), seed) if student.scratch else _cut(base.network, student.layers)
        )
        if not student.scratch and (student.tokenizer or student.new_tokenizer):
            _embed_again(network, base, tokenizer)
        _closed(network, tokenizer)
        write_folder(folder, network, tokenizer)
    return models.load(str(folder), device)


def outline(student: Student, ref: str, teacher: TextModel, seed: int, home: Path | None = None) -> PreTrainedModel:
    """The student's network without weights, which takes from `ref` or from `teacher` what `student` does not name.

    `InputError`: layers that are not there, a configuration that makes no model; `ModelError`: a model, or a tokenizer,
    that cannot be loaded.
    """
    if student.tokenizer:
        models.load_tokenizer(student.tokenizer, home)
    if student.scratch:
        with torch.device("meta"):
            return _random(student, teacher, teacher.vocabulary, seed)
    network = models.outline(ref, home)
    return _cut(network, student.layers) if student.layers else network


def write_folder(folder: Path, network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """A Hugging Face folder, there whole or not at all."""
    partial = folder.parent / f".partial-{uuid.uuid4().hex}"
    try:
        with models.silence():
            network.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
        for file in partial.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        partial.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _tokenizer(student: Student, base: Model, texts: Sequence[str], home: Path | None) -> PreTrainedTokenizerFast:
    if student.new_tokenizer:
        return _trained(student.new_tokenizer, base.tokenizer, texts)
    return models.load_tokenizer(student.tokenizer, home) if student.tokenizer else base.tokenizer


def _trained(new: NewTokenizer, old: PreTrainedTokenizerFast, texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the old one's special tokens and chat template."""
    tokenizer = Tokenizer(BPE())
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytewise]) if new.single_digits else bytewise
    tokenizer.decoder = decoders.ByteLevel()
    special = [t.content for t in old.added_tokens_decoder.values()] or ["<|end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=new.vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    names = {k: v for k, v in old.special_tokens_map.items() if isinstance(v, str)} or {"eos_token": special[0]}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=old.chat_template, **names)


def _cut(network: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A copy with only those layers, in that order; with all where none are named."""
    cut: Any = copy.deepcopy(network)
    if layers:
        stack = cut.base_model.layers
        if wrong := [i for i in layers if not 0 <= i < len(stack)]:
            raise InputError(f"student.layers: {wrong[0]} is not there; the model has layers 0 to {len(stack) - 1}")
        cut.base_model.layers = torch.nn.ModuleList(copy.deepcopy(stack[i]) for i in layers)
        text = cut.config.get_text_config()
        text.num_hidden_layers = len(layers)
        for name in ("layer_types", "mlp_layer_types"):
            if getattr(text, name, None):
                setattr(text, name, [getattr(text, name)[i] for i in layers])
    return cut  # type: ignore[no-any-return]


def _random(student: Student, base: TextModel, vocabulary: int, seed: int) -> PreTrainedModel:
    """Random weights of the shape that `scratch` describes."""
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "vocab_size": vocabulary}
    shape = {**tokens, "max_position_embeddings": base.context, **student.scratch}
    try:
        config = AutoConfig.for_model(shape.pop("model_type"), **shape)
        with models.silence(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # transformers' configurations raise a dozen kinds
        raise InputError(f"student.scratch: no model can be made of it: {first_line(error)}") from error
    return network


@torch.no_grad()
def _embed_again(network: PreTrainedModel, base: Model, tokenizer: PreTrainedTokenizerFast) -> None:
    """Embeddings (and an untied head) for another vocabulary: means over the old tokens of each new token's text."""
    old, added = base.tokenizer.get_vocab(), {i: name for name, i in tokenizer.get_added_vocab().items()}
    parts = [
        [old[added[i]]] if added.get(i) in old else base.text_ids(text.decode(errors="replace"))
        for i, text in enumerate(models.token_bytes(tokenizer, len(tokenizer)))
    ]
    tables: list[Callable[[], Any]] = [network.get_input_embeddings, network.get_output_embeddings]
    rows = []
    for table in tables:
        weight_VH: torch.Tensor = table().weight.detach()
        mean_H = weight_VH.mean(0)
        rows.append(torch.stack([weight_VH[ids].mean(0) if ids else mean_H for ids in parts]))
    with models.silence():
        network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for table, row_VH in zip(tables, rows, strict=True):
        table().weight.copy_(row_VH)


def _closed(network: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """The ids that end an answer are the tokenizer's."""
    for holder in (network.config, network.generation_config):
        if holder is not None:
            holder.eos_token_id, holder.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
