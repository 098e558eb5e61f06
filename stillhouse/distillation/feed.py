"""A teacher's signals as one student reads them: token by token, or by chunks of bytes where its tokenizer is another.

In: a student's model, captured signals. Out: a feed, and for every example which of the signals it is from. It does
not know training.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from ..capture.prompts import Captured
from ..errors import InputError
from ..feeds import aligned
from ..feeds.same_tokens import Feed, SameTokens
from ..models import Model, align


def feed_of(model: Model, signals: Sequence[Captured]) -> tuple[Feed, list[int]]:
    """All signals as what `model` trains on, and for every example of the feed the number of its signals.

    `InputError`: signals without examples, or chosen positions for a student with another tokenizer.
    """
    if empty := [s for s in signals if not s.examples]:
        raise InputError(
            f"{empty[0].folder}: none of its examples is left, {len(empty[0].skipped)} were too long: raise "
            "capture.max_tokens or give shorter ones"
        )
    tokens = signals[0].tokens()
    shards = list(chain.from_iterable(s.read() for s in signals))
    owners = [i for i, s in enumerate(signals) for _ in range(s.examples)]
    if align.same_vocabulary(tokens, model.token_bytes):
        return SameTokens(shards, model.vocabulary, model.context), owners
    if any(any(s.config.get("positions", {}).values()) for s in signals):
        raise InputError(
            "capture.positions: a student with another tokenizer is trained on whole answers; capture all positions "
            "for it"
        )
    feed = aligned.AlignedTokens(shards, aligned.TeacherVocabulary(tokens, signals[0].special()), model)
    return feed, [owners[i] for i in feed.kept]


def tokenizer_note(name: str, model: Model, feed: Feed) -> str:
    """One line on what is done about a tokenizer that is not the teacher's; nothing where it is the teacher's."""
    if not isinstance(feed, aligned.AlignedTokens):
        return ""
    omitted = f"; {feed.skipped} examples cannot be spelt and are left out" if feed.skipped else ""
    return (
        f"{name}: {model.ref} has another tokenizer than the teacher: it learns the likelihood of chunks of bytes, and "
        f"distributions where a chunk is one token on both sides ({feed.single:.0%} of them){omitted}\n"
    )
