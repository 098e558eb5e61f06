"""A small byte-level tokenizer, chat templates as real models have them, and model folders made of both.

In: a random-weight network of `architectures.py`. Out: a folder in Hugging Face format that `models.load` reads. The
tokenizer is trained on the standard library's docstrings, so it is the same wherever the tests run.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from stillhouse.text import corpus

SPECIAL = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
MERGES = 400
VOCABULARY = 256 + len(SPECIAL) + MERGES
WITH_SYSTEM = (
    "{% for m in messages %}{{ '<|' ~ m['role'] ~ '|>' ~ m['content'] ~ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + WITH_SYSTEM
)
DROPS_SYSTEM = WITH_SYSTEM.replace(
    "for m in messages", "for m in messages | selectattr('role', 'ne', 'system')"
)  # renders without complaint
BROKEN = "{% for m in messages %}{{ m['content'] | no_such_filter }}{% endfor %}"


@cache
def _trained() -> str:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus.anchors(60), trainer)
    return str(tokenizer.to_str())


def byte_level(template: str | None = WITH_SYSTEM) -> PreTrainedTokenizerFast:
    """A new tokenizer of `VOCABULARY` ids with the given chat template, or with none."""
    tokenizer = Tokenizer.from_str(_trained())
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SPECIAL[0], pad_token=SPECIAL[0], chat_template=template
    )


def save(folder: Path, network: PreTrainedModel, template: str | None = WITH_SYSTEM) -> Path:
    """Write network and tokenizer where `models.load` finds them; returns the folder."""
    network.save_pretrained(folder)
    byte_level(template).save_pretrained(folder)
    return folder
