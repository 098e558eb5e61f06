"""A small byte-level tokenizer, chat templates as real models have them, and model folders made of both.

In: a random-weight network of `architectures.py`. Out: a folder in Hugging Face format that `models.load` reads. The
tokenizer is trained on the standard library's docstrings, so it is the same wherever the tests run.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
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
BOS = SPECIAL[1]  # of tokenizers that put one before every text: their templates have no system turn of their own
_TURN = "{{ '<|' ~ role ~ '|>' ~ m['content'] | trim ~ '<|end|>' }}"
_REPLY = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
_ALTERNATES = (
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
GEMMA = (  # as Gemma's: a BOS, no system role, turns that alternate, the assistant under another name
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}" + _ALTERNATES + "{% set role = m['role'] %}" + _TURN + "{% endfor %}" + _REPLY
)
MISTRAL = (  # as Mistral's: a BOS, a system message at the head of the first user turn, turns that alternate
    "{{ bos_token }}{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% for m in (messages[1:] if system else messages) %}" + _ALTERNATES + "{% if m['role'] == 'user' %}"
    "{{ ' [INST] ' ~ (system ~ '\n\n' if loop.first and system else '') ~ m['content'] ~ ' [/INST]' }}"
    "{% else %}{{ ' ' ~ m['content'] ~ '<|end|>' }}{% endif %}{% endfor %}"
)
QWEN = (  # as Qwen2.5's and SmolLM2's: a system message of its own where there is none
    "{% if messages[0]['role'] != 'system' %}{{ '<|system|>You are Kim, made by Us.<|end|>' }}{% endif %}" + WITH_SYSTEM
)
LLAMA = (  # as Llama 3's: a BOS, then turns of any role in any order
    "{{ bos_token }}{% for m in messages %}"
    "{{ '[' ~ m['role'] ~ ']\n\n' ~ m['content'] | trim ~ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n\n' }}{% endif %}"
)
STRICT = (  # a system message first or never, and known roles
    "{% for m in messages %}{% if m['role'] == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}"
    "{% if m['role'] not in ['system', 'user', 'assistant'] %}{{ raise_exception('Unexpected message role.') }}"
    "{% endif %}"
    "{% endfor %}" + WITH_SYSTEM
)
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


def byte_level(template: str | None = WITH_SYSTEM, bos: bool = False) -> PreTrainedTokenizerFast:
    """A new tokenizer of `VOCABULARY` ids with the given chat template, or with none. `bos`: it puts `BOS` before
    every text."""
    tokenizer = Tokenizer.from_str(_trained())
    tokens = {"eos_token": SPECIAL[0], "pad_token": SPECIAL[0], **({"bos_token": BOS} if bos else {})}
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, SPECIAL.index(BOS))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **tokens)


def save(folder: Path, network: PreTrainedModel, template: str | None = WITH_SYSTEM, bos: bool = False) -> Path:
    """Write network and tokenizer where `models.load` finds them; returns the folder."""
    network.save_pretrained(folder)
    byte_level(template, bos).save_pretrained(folder)
    return folder
