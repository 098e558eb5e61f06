"""One question, one answer: by the user's adapter, by a memory in the context, or by the base alone.

In: a store, a question, and a user or a memory. Out: `Reply`, which says what answered and by which version. An adapter
made for another base is refused. It loads the model for every question; a server keeps it (`service.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .. import models
from ..errors import InputError, ModelError
from ..export import peft
from ..generate import Sampling, generate
from ..lora import AdapterBank, LoraConfig
from ..models import Model, TextModel
from ..records import Candidate, Version
from ..store import Store
from ..text.prompts import Message, with_memory, without_memory

AnswerPath = Literal["adapted", "memory", "base"]


@dataclass(frozen=True)
class Reply:
    """One answer."""

    answer: str
    path: AnswerPath
    """"adapted": from the weights alone; "memory": with a memory in the context; "base": neither."""
    version: int | None
    """Number of the adapter's version."""
    user: str | None
    base: str
    """Fingerprint of the base."""
    prompt_tokens: int


def ask(
    store: Store, question: str, user: str | None = None, memory: str | None = None, model: str | None = None,
    max_new_tokens: int = 128,
) -> Reply:  # fmt: skip
    """Answer `question` as `user`'s champion would, or with `memory` in the context.

    Raises `InputError` for an empty question, both a user and a memory, or a memory that does not fit the context;
    `ModelError` when the user's adapter was made for another base than `model`.
    """
    if not question.strip():
        raise InputError("the question is empty")
    if not question.isprintable() and any("\ud800" <= c <= "\udfff" for c in question):
        raise InputError(f"the question is not Unicode text: {question[:80]!r}")
    if user is not None and memory is not None:
        raise InputError(
            "both a user and a memory were given: ask either the user's weights or a memory in the context"
        )
    if user is None:
        base = models.load(model or models.DEFAULT, home=store.home)
        messages = without_memory(question) if memory is None else with_memory(memory, question)
        return _reply(base, messages, "base" if memory is None else "memory", None, None, max_new_tokens)
    version = store.champion(user)
    reference = model or (models.found_again(version.base_ref, store.home) if version else models.DEFAULT)
    base = models.load(reference, home=store.home)
    if version is None:
        return _reply(base, without_memory(question), "base", None, user, max_new_tokens)
    check_base(version, base)
    return _reply_by_adapter(store, base, version, question, max_new_tokens)


def check_base(version: Version, base: TextModel) -> None:
    """Refuse an adapter made for another base: `ModelError` names both."""
    if version.base != base.fingerprint:
        raise ModelError(
            f"adapter v{version.number} of {version.user!r} was made for base {version.base[:12]} "
            f"({version.base_ref}), not for {base.fingerprint[:12]} ({base.ref}); "
            f"ask with --model {version.base_ref} or consolidate again"
        )


def _reply_by_adapter(store: Store, base: Model, version: Version, question: str, max_new_tokens: int) -> Reply:
    tensors, about = peft.read(store.version_dir(version.user, version.number))
    candidate = store.get(Candidate, version.candidate)
    shape = {name: candidate.config[name] for name in ("rank", "alpha", "targets", "experts")}
    bank = AdapterBank(base.network, 1, LoraConfig(**shape))
    try:
        bank.load(0, tensors, about)
        return _reply(base, without_memory(question), "adapted", version, version.user, max_new_tokens, bank)
    finally:
        bank.detach()


def _reply(
    base: Model, messages: list[Message], path: AnswerPath, version: Version | None, user: str | None,
    max_new_tokens: int, bank: AdapterBank | None = None,
) -> Reply:  # fmt: skip
    prompt = base.chat_ids(messages)
    slots = [0] if bank is not None else None
    (ids,) = generate(base, [prompt], Sampling(max_new_tokens), bank=bank, slots=slots)
    number = version.number if version else None
    return Reply(base.text(ids), path, number, user, base.fingerprint, len(prompt))


def ask_home(
    question: str, *, user: str | None = None, memory: str | None = None, model: str | None = None,
    home: Path | str | None = None,
) -> Reply:  # fmt: skip
    """`ask` on the store in `home` (default `~/.stillhouse`)."""
    return ask(
        Store(Path(home).expanduser() if home is not None else Path.home() / ".stillhouse"),
        question,
        user,
        memory,
        model,
    )
