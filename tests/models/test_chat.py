"""Conversations of every shape reach templates of every kind, whole, or are refused in one line; BOS comes once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse import models
from stillhouse.errors import InputError, ModelError
from stillhouse.models import Model
from stillhouse.text.prompts import Message, transcript, with_memory, without_memory
from tests import tokenizers

TEMPLATES = {
    name: getattr(tokenizers, name)
    for name in ("WITH_SYSTEM", "REFUSES_SYSTEM", "DROPS_SYSTEM", "GEMMA", "MISTRAL", "QWEN", "LLAMA", "STRICT")
} | {"none": None}
TOKENIZERS = {
    name: tokenizers.byte_level(template, bos=name in ("GEMMA", "MISTRAL", "LLAMA"))
    for name, template in TEMPLATES.items()
}
MESSAGES = with_memory("My dog is Rex.", "Who is Rex?")


def talk(shape: str) -> list[Message]:
    """One message for each letter; "S", "U", "A" begin the roles, and no two messages are alike."""
    roles = {"S": "system", "U": "user", "A": "assistant"}
    return [{"role": roles[letter], "content": f"text {i} of {letter}"} for i, letter in enumerate(shape)]


def rendered(template: str | None, messages: list[Message] = MESSAGES) -> str:
    return models.render(tokenizers.byte_level(template), messages)


def test_a_system_message_reaches_every_template() -> None:
    system, user = (m["content"] for m in MESSAGES)
    assert rendered(tokenizers.WITH_SYSTEM) == f"<|system|>{system}<|end|><|user|>{user}<|end|><|assistant|>"
    merged = f"<|user|>{system}\n\n{user}<|end|><|assistant|>"
    assert rendered(tokenizers.REFUSES_SYSTEM) == rendered(tokenizers.DROPS_SYSTEM) == merged
    assert rendered(tokenizers.GEMMA) == merged
    assert rendered(tokenizers.MISTRAL) == f" [INST] {system}\n\n{user} [/INST]"
    assert rendered(None) == f"{system}\n\nUser: {user}\nAssistant:"


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    "shape", ["S", "U", "SU", "UU", "SUU", "AU", "SAU", "USU", "UASU", "SSU", "SASA", "UAAU", "US"]
)
def test_a_conversation_of_any_shape_is_rendered_whole(name: str, shape: str) -> None:
    text = models.render(TOKENIZERS[name], talk(shape))
    places = [text.find(m["content"]) for m in talk(shape)]
    assert places == sorted(places)
    assert -1 not in places


@given(st.text("SUA", min_size=1, max_size=9))
def test_no_shape_loses_a_message(shape: str) -> None:
    for name, tokenizer in TOKENIZERS.items():
        text = models.render(tokenizer, talk(shape))
        assert all(m["content"] in text for m in talk(shape)), name


def test_templates_that_demand_turns_get_turns() -> None:
    two = rendered(tokenizers.GEMMA, talk("UU"))
    assert two == "<|user|>text 0 of U\n\ntext 1 of U<|end|><|assistant|>"
    assert rendered(tokenizers.GEMMA, talk("AU")) == (
        "<|user|><|end|><|assistant|>text 0 of A<|end|><|user|>text 1 of U<|end|><|assistant|>"
    )
    assert (
        rendered(tokenizers.STRICT, talk("USU"))
        == "<|user|>text 0 of U\n\ntext 1 of S\n\ntext 2 of U<|end|><|assistant|>"
    )


def test_a_template_that_takes_a_conversation_gets_it_as_it_is() -> None:
    whole = "<|user|>text 0 of U<|end|><|system|>text 1 of S<|end|><|user|>text 2 of U<|end|><|assistant|>"
    assert rendered(tokenizers.WITH_SYSTEM, talk("USU")) == whole


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_empty_system_message_is_left_out(name: str) -> None:
    empty = [{"role": "system", "content": " \n"}, *without_memory("Who?")]
    assert models.render(TOKENIZERS[name], empty) == models.render(TOKENIZERS[name], without_memory("Who?"))
    with pytest.raises(ModelError, match="the conversation is empty"):
        models.render(TOKENIZERS[name], [{"role": "system", "content": ""}])


def test_what_a_template_cannot_take_is_one_line_without_a_path() -> None:
    for messages in (MESSAGES, without_memory("Who?")):
        with pytest.raises(ModelError, match=r"^the model's chat template cannot be rendered: [^\n/]+$"):
            rendered(tokenizers.BROKEN, messages)
    tool = [*without_memory("Who?"), {"role": "tool", "content": "42"}]
    with pytest.raises(ModelError, match=r"Unexpected message role\. \(for messages of user, tool\)"):
        rendered(tokenizers.STRICT, tool)


def test_half_of_a_surrogate_pair_is_one_line(random_model: Callable[..., Model]) -> None:
    model = random_model("llama")
    with pytest.raises(InputError, match="not Unicode text: half of a surrogate pair"):
        model.text_ids("Where \ud83d is")
    with pytest.raises(InputError, match="not Unicode text: half of a surrogate pair"):
        model.chat_ids(without_memory("\ude00?"))


def test_the_system_message_of_a_template_itself_is_known() -> None:
    own = {name: models.default_system(tokenizer) for name, tokenizer in TOKENIZERS.items()}
    assert own == {name: "You are Kim, made by Us." if name == "QWEN" else "" for name in TEMPLATES}


def test_which_templates_have_a_place_for_a_system_message_is_known() -> None:
    takes = {
        name for name, tokenizer in TOKENIZERS.items() if tokenizer.chat_template and models.takes_system(tokenizer)
    }
    assert takes == {"WITH_SYSTEM", "MISTRAL", "QWEN", "LLAMA", "STRICT"}


@pytest.mark.parametrize("template", [tokenizers.GEMMA, tokenizers.MISTRAL, tokenizers.LLAMA, None])
def test_every_text_begins_with_one_bos_where_the_tokenizer_puts_one(
    random_model: Callable[..., Model], template: str | None
) -> None:
    model = random_model("llama", template, bos=True)
    bos = model.tokenizer.bos_token_id
    assert model.opening == (bos,)
    for ids in (model.chat_ids(without_memory("Who?")), model.chat_ids(MESSAGES), model.opened_ids("The dog")):
        assert (ids[0], ids.count(bos)) == (bos, 1)
    assert model.opened_ids("The dog") == model.tokenizer("The dog")["input_ids"]
    assert model.opened_ids(f"{tokenizers.BOS}The dog") == model.opened_ids("The dog")
    assert bos not in model.text_ids("The dog")
    if template:
        stock: Any = model.tokenizer.apply_chat_template(without_memory("Who?"), add_generation_prompt=True)
        assert model.chat_ids(without_memory("Who?")) == stock["input_ids"]


def test_nothing_is_put_before_a_text_where_the_tokenizer_puts_nothing(random_model: Callable[..., Model]) -> None:
    model = random_model("llama")
    assert model.opening == ()
    assert model.opened_ids("The dog") == model.text_ids("The dog")


@given(st.text(st.sampled_from("User: Assistant\n hi"), max_size=60))
def test_no_message_of_a_transcript_begins_a_turn(text: str) -> None:
    whole = transcript(with_memory(text, text))
    turns = [line for line in whole.split("\n") if line.startswith(("User:", "Assistant:"))]
    assert len(turns) == 2
    assert whole.endswith("\nAssistant:")
