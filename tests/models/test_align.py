"""Two tokenizers over the same bytes, with real tokenizers of every make, and a student that learns across them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise, permutations
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from stillhouse import models
from stillhouse.capture import prompts
from stillhouse.errors import InputError
from stillhouse.feeds.aligned import AlignedTokens, TeacherVocabulary
from stillhouse.losses import Objective
from stillhouse.losses.chunks import chunk_divergence
from stillhouse.models import Model, align, token_bytes
from stillhouse.signals import Shard
from stillhouse.text import corpus
from stillhouse.train.full import Config, train
from tests import architectures, tokenizers

Make = Callable[..., Model]
TEXTS = [
    "In 2024 we sold 1,048,576 lamps.", "Grüße aus Köln 🙂 — ça va?", " leading and  double spaces ", "x", "\n\ttabs",
    "The list is sorted, and 3.14159 is not 22/7.",
]  # fmt: skip
MAKES = ("whole numbers", "single digits", "bytes", "sentencepiece")


@cache
def tokenizer(make: str) -> PreTrainedTokenizerFast:
    """A real tokenizer, trained on the standard library's docstrings and some numbers."""
    found = Tokenizer(BPE(byte_fallback=make == "sentencepiece"))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size, special = 600, ["<eos>"]
    if make == "sentencepiece":
        found.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        found.decoder = decoders.Metaspace()
        special, alphabet = ["<eos>", *(f"<0x{b:02X}>" for b in range(256))], []
    elif make == "single digits":
        digits = pre_tokenizers.Digits(individual_digits=True)
        found.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
        found.decoder = decoders.ByteLevel()
    else:
        found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        found.decoder = decoders.ByteLevel()
        size = 257 if make == "bytes" else 700
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    found.train_from_iterator([*corpus.anchors(60), *(f"{n} {n * 37}" for n in range(1000, 2200))], trainer)
    template = tokenizers.WITH_SYSTEM.replace("<|end|>", "<eos>")
    return PreTrainedTokenizerFast(tokenizer_object=found, eos_token="<eos>", pad_token="<eos>", chat_template=template)


def spelt(make: str, text: str) -> list[bytes] | None:
    own = tokenizer(make)
    ids = own(text, add_special_tokens=False)["input_ids"]
    return align.pieces(text.encode(), ids, token_bytes(own, len(own)))


@pytest.mark.parametrize(("left", "right"), list(permutations(MAKES, 2)))
def test_chunks_cover_the_same_bytes_on_both_sides(left: str, right: str) -> None:
    for text in TEXTS:
        ours, theirs = spelt(left, text), spelt(right, text)
        if ours is None or theirs is None:
            assert "sentencepiece" in (left, right), "byte-level tokenizers spell everything"
            continue
        found = align.chunks(ours, theirs)
        assert found[-1].teacher_end == len(ours) and found[-1].student_end == len(theirs)
        end = (0, 0)
        for c in found:
            assert (c.teacher, c.student) == end
            assert b"".join(ours[c.teacher : c.teacher_end]) == b"".join(theirs[c.student : c.student_end]) != b""
            end = (c.teacher_end, c.student_end)


def test_a_number_that_one_side_splits_is_one_chunk() -> None:
    whole, digits = spelt("whole numbers", "year 1999 ok"), spelt("single digits", "year 1999 ok")
    assert whole and digits and b"1999" in b"".join(whole)
    found = align.chunks(whole, digits)
    numbers = [c for c in found if b"9" in b"".join(whole[c.teacher : c.teacher_end])]
    assert any(c.student_end - c.student > c.teacher_end - c.teacher for c in numbers)


@st.composite
def cuts(draw: st.DrawFn) -> tuple[bytes, list[bytes], list[bytes]]:
    text = draw(st.binary(min_size=1, max_size=20))

    def cut() -> list[bytes]:
        at = sorted({0, len(text), *draw(st.lists(st.integers(0, len(text)), max_size=8))})
        parts = [text[a:b] for a, b in pairwise(at)]
        return [p for part in parts for p in ([b"", part] if draw(st.booleans()) else [part])]

    return text, cut(), cut()


@given(cuts())
@settings(max_examples=300)
def test_chunks_are_the_shortest_there_are(sample: tuple[bytes, list[bytes], list[bytes]]) -> None:
    text, left, right = sample
    found = align.chunks(left, right)
    assert b"".join(b"".join(left[c.teacher : c.teacher_end]) for c in found) == text
    ends = [{sum(map(len, side[: i + 1])) for i in range(len(side))} - {0} for side in (left, right)]
    assert len(found) == len(ends[0] & ends[1])


def test_text_that_a_tokenizer_does_not_spell_is_noticed() -> None:
    assert align.pieces(b"ab", [0, 1], [b"a", b"b"]) == [b"a", b"b"]
    assert align.pieces(b"ab", [0, 1], [b" a", b"b"]) == [b"a", b"b"], "a space put before every text"
    assert align.pieces(b"Ab", [0, 1], [b"a", b"b"]) is None
    assert align.whole_characters("né🙂".encode()[:-2]) == "né".encode()
    assert align.whole_characters(b"ok") == b"ok"


def test_one_familys_padding_is_no_difference() -> None:
    base = [bytes([65 + i]) for i in range(20)]
    assert align.same_vocabulary(base + [b""] * 5, base)
    assert align.same_vocabulary(base, [*base, b"new", b""])
    assert align.same_vocabulary([*base, b""], [*base, b"<tool>"])
    assert not align.same_vocabulary(base, base[1:] + base[:1])
    assert not align.same_vocabulary([b""] * 30 + base[:2], [b"x"] * 30 + base[:2])


def test_ids_map_by_what_they_stand_for() -> None:
    assert align.token_map([b"a", b"b", b"c", b"<e>", b""], [b"c", b"a", b"<e>", b""], [False] * 3 + [True, False]) == [
        1, -1, 0, -1, -1,
    ]  # fmt: skip


def test_chunk_divergence_is_zero_at_the_teacher_and_pulls_towards_it() -> None:
    teacher_C = torch.tensor([-0.5, -3.0, 0.0, -40.0], dtype=torch.float64)
    student_C = teacher_C.clone().requires_grad_()
    same_C = chunk_divergence(student_C, teacher_C)
    (at_teacher_C,) = torch.autograd.grad(same_C.sum(), student_C)
    assert same_C.abs().max() < 1e-9 and at_teacher_C.abs().max() < 1e-6
    for step in (-0.3, 0.3):
        moved_C = torch.tensor([-0.5, -3.0, -1.0, -40.0], dtype=torch.float64).add(step).requires_grad_()
        loss_C = chunk_divergence(moved_C, torch.tensor([-0.5, -3.0, -1.0, -40.0], dtype=torch.float64))
        (pull_C,) = torch.autograd.grad(loss_C.sum(), moved_C)
        assert (loss_C > 0).all() and (pull_C.sign() == torch.tensor(step).sign()).all()
    odd_C = torch.tensor([0.0, -1e4, -1e-30], requires_grad=True)
    loss_C = chunk_divergence(odd_C, torch.tensor([-1e4, 0.0, -5.0]))
    (pull_C,) = torch.autograd.grad(loss_C.sum(), odd_C)
    assert loss_C.isfinite().all() and pull_C.isfinite().all()


def student(make: str, folder: Path, seed: int = 3) -> Model:
    own = tokenizer(make)
    architectures.ALL["llama"](len(own), seed=seed).save_pretrained(folder)
    own.save_pretrained(folder)
    return models.load(str(folder), device="cpu")


DATA = [
    prompts.Example(({"role": "user", "content": "When?"},), answer="In 1999, or in 2024; not in 1048."),
    prompts.Example(text="Köln says", answer=" Grüße, and ça va."),
    *(prompts.Example(answer=text[:60]) for text in corpus.anchors(6)),
]


@pytest.fixture
def captured(random_model: Make, tmp_path: Path) -> tuple[list[Shard], TeacherVocabulary, Model]:
    model = random_model("llama")
    found = prompts.capture(model, DATA, prompts.Config(top_k=64, keep=0.0), tmp_path / "signals")
    return list(found.read()), TeacherVocabulary(found.tokens(), found.special()), model


def test_a_student_with_the_same_tokenizer_has_nothing_to_learn_from_itself(
    captured: tuple[list[Shard], TeacherVocabulary, Model],
) -> None:
    shards, teacher, model = captured
    feed = AlignedTokens(shards, teacher, model)
    assert feed.skipped == 0 and feed.single == 1.0
    numbers = list(range(len(feed.lengths)))
    batch = feed.batch(numbers, 0, model.device)
    assert sum(feed.positions) >= sum(len(s.targets) for s in shards) - 2  # a first token without one before it
    with torch.no_grad():
        hidden_BTH = model.network.base_model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).last_hidden_state
        loss_C = batch.losses(hidden_BTH, model.network.get_output_embeddings(), Objective())
    assert loss_C.shape == (sum(feed.positions),)
    # what rounding leaves: this teacher is nearly flat, so draws, kept to half a nat, all err to the same side
    assert loss_C.abs().max() < 0.06 and abs(float(loss_C.mean())) < 2e-2


@pytest.mark.parametrize("make", MAKES)
def test_a_student_with_another_tokenizer_learns(
    make: str, captured: tuple[list[Shard], TeacherVocabulary, Model], tmp_path: Path
) -> None:
    shards, teacher, _ = captured
    model = student(make, tmp_path / "student")
    feed = AlignedTokens(shards, teacher, model)
    assert feed.skipped <= (len(DATA) // 2 if make == "sentencepiece" else 0)
    if make == "bytes":
        assert feed.single < 0.6
    config = Config(batch_tokens=2048, epochs=15.0, learning_rate=1e-2, objective=Objective(alpha=0.9), mixed="off")
    found = train(model, feed, config)
    assert found.losses[-1] < 0.85 * found.losses[0]


def test_an_answer_without_likelihoods_is_left_out(
    captured: tuple[list[Shard], TeacherVocabulary, Model], tmp_path: Path
) -> None:
    shards, teacher, _ = captured
    old = [replace(s, targets=replace(s.targets, actual_P=s.targets.actual_P * float("nan"))) for s in shards]
    with pytest.raises(InputError, match=f"none of {len(DATA)} examples can be aligned with the student's tokenizer"):
        AlignedTokens(old, teacher, student("bytes", tmp_path / "student"))
