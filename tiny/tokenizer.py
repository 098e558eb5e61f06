"""The tiny model's tokenizer: byte-level BPE (every byte has a token, so nothing is unknown), digits one by one.

In: seeded sample documents. Out: a `PreTrainedTokenizerFast` with the chat template.
"""

from __future__ import annotations

import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from stillhouse.text.prompts import MEMORY_SYSTEM, writing_request

from . import documents as D
from . import world as W

VOCABULARY = 2048
CONTEXT = 2048
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}"
    "{% set role = 'system' if message['role'] == 'memory' else message['role'] %}"
    "{% if role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('role must be system, memory, user or assistant, not ' ~ role) }}{% endif %}"
    "{{ '<|' ~ role ~ '|>' ~ message['content'] ~ '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def corpus(seed: int, n: int) -> list[str]:
    rng = random.Random(f"tokenizer/{seed}")
    texts = []
    for _ in range(n):
        memory = W.make_memory(rng, W.World(), rng.randint(4, 10), 2)
        asked = [q for f in memory.facts for q in (*f.questions, *(r[0] for r in f.reverse))]
        written = D.written(rng.choice(memory.facts))
        texts.append("\n".join([MEMORY_SYSTEM.format(memory=memory.text), *rng.sample(asked, 8), written]))
        texts.append(writing_request(memory.facts[0].statement, W.WRITER_WORDINGS))
    strings = D.docstrings()
    return texts + rng.sample(strings, min(len(strings), n)) + [f"{q} {a}" for q, a in W.world_questions()]


def train(seed: int, n: int = 3000) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(seed, n), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=list(SPECIAL[2:]),
        chat_template=TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
