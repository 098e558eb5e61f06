"""One question, one answer, and which path it took; an adapter never answers on another base."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stillhouse.errors import InputError, ModelError, StillhouseError
from stillhouse.models import Model
from stillhouse.serve.ask import ask, ask_home, check_base
from stillhouse.store import Store
from stillhouse.text.answers import Expected, grade, mentions
from stillhouse.text.prompts import without_memory
from tests.consolidated import FACTS, MEMORY, Consolidated


@pytest.mark.parametrize("question", FACTS)
def test_the_weights_alone_answer(consolidated: Consolidated, question: str) -> None:
    reply = ask(consolidated.store, question, user="alice")
    assert grade(reply.answer, Expected(FACTS[question], question=question)).correct, reply.answer
    assert (reply.path, reply.version, reply.user) == ("adapted", 1, "alice")
    assert reply.base == consolidated.model.fingerprint
    assert reply.prompt_tokens == len(consolidated.model.chat_ids(without_memory(question)))


@pytest.mark.parametrize("question", FACTS)
def test_the_base_by_itself_does_not_know(consolidated: Consolidated, question: str) -> None:
    for user in (None, "nobody"):
        reply = ask(consolidated.store, question, user=user)
        assert (reply.path, reply.version, reply.user) == ("base", None, user)
        assert not mentions(reply.answer, FACTS[question])


@pytest.mark.parametrize("question", FACTS)
def test_a_memory_in_the_context_answers(consolidated: Consolidated, question: str) -> None:
    reply = ask(consolidated.store, question, memory=MEMORY)
    assert (reply.path, reply.version, reply.user) == ("memory", None, None)
    assert grade(reply.answer, Expected(FACTS[question], question=question)).correct
    alone = ask(consolidated.store, question, user="alice")
    assert reply.prompt_tokens - alone.prompt_tokens == consolidated.result.tokens_saved


def test_an_adapter_of_another_base_is_refused(consolidated: Consolidated, random_model: Callable[..., Model]) -> None:
    other = random_model("qwen3_moe")
    with pytest.raises(ModelError) as caught:
        ask(consolidated.store, "Who?", user="alice", model=str(other.path))
    message = str(caught.value)
    for part in ("adapter v1 of 'alice'", consolidated.model.fingerprint[:12], other.fingerprint[:12], "--model"):
        assert part in message
    version = consolidated.result.version
    check_base(version, consolidated.model)
    with pytest.raises(ModelError):
        check_base(replace(version, base="0" * 64), consolidated.model)


def test_a_copy_of_the_base_elsewhere_is_the_same_base(consolidated: Consolidated, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(consolidated.model.path, tmp_path / "assets" / "tiny"))
    reply = ask(consolidated.store, "What is my dog called?", user="alice", model=str(copy))
    assert reply.path == "adapted"
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    with pytest.raises(ModelError, match="was made for base"):
        ask(consolidated.store, "Who?", user="alice", model=str(copy))


@pytest.mark.parametrize("damage", ["adapter_model.safetensors", "adapter_config.json", "version.json"])
def test_a_damaged_version_is_one_line(consolidated: Consolidated, tmp_path: Path, damage: str) -> None:
    home = Path(shutil.copytree(consolidated.home, tmp_path / "home"))
    file = Store(home).version_dir("alice", 1) / damage
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(StillhouseError) as caught:
        ask(Store(home), "What is my dog called?", user="alice")
    assert "\n" not in str(caught.value)
    assert damage in str(caught.value)


def test_questions_that_cannot_be_asked(consolidated: Consolidated) -> None:
    for question in ("", " \n"):
        with pytest.raises(InputError, match="the question is empty"):
            ask(consolidated.store, question)
    with pytest.raises(InputError, match="both a user and a memory"):
        ask(consolidated.store, "Who?", user="alice", memory=MEMORY)
    with pytest.raises(InputError, match="the user id is empty"):
        ask(consolidated.store, "Who?", user="")
    with pytest.raises(InputError, match="not Unicode text"):
        ask_home("\ud800", home=consolidated.home)


def test_an_answer_is_no_longer_than_asked(consolidated: Consolidated) -> None:
    reply = ask(consolidated.store, "What is my sister's name?", user="alice", max_new_tokens=1)
    assert len(consolidated.model.text_ids(reply.answer)) <= 1
