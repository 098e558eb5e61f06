"""The language that memories are written in: the one place that names it.

Everything outside `text/` that depends on the language takes it from here. The list below is what a language has to
provide; each name is described where it stands (`english/`).
"""

from __future__ import annotations

from .english.everyday import EVERYDAY_PROMPTS, decoys
from .english.imperatives import as_request
from .english.refusals import declines, is_unknown
from .english.sentences import ABBREVIATION, LONGEST_ABBREVIATION, ORDER, SENTENCE_BORDER, SPEAKER_LABEL, leans_back
from .english.sources import names_source
from .english.vocabulary import COMMON_NOUNS, STAND_IN_NAMES, STAND_IN_THINGS, invented_word
from .english.wording import (
    ANSWER_LABEL,
    COMPLETION_REQUEST,
    MEMORY_SYSTEM,
    NEAR_REQUEST,
    NO_PASSAGES,
    PASSAGES_SYSTEM,
    PROMPTS_VERSION,
    QUESTION_LABEL,
    QUESTIONS_REQUEST,
    SPEAKERS,
    UNKNOWN_ANSWER,
    VALUES_REQUEST,
    WRITING_REQUEST,
)
from .english.words import (
    DROPPED_WORDS,
    FUNCTION_WORDS,
    LONG_WORD,
    POSSESSIVE,
    REPETITIONS,
    compounds,
    content_words,
    forms,
    naming_words,
    noun_pairs,
    owner_and_owned,
)

__all__ = [
    "ABBREVIATION", "ANSWER_LABEL", "COMMON_NOUNS", "COMPLETION_REQUEST", "DROPPED_WORDS", "EVERYDAY_PROMPTS",
    "FUNCTION_WORDS", "LONGEST_ABBREVIATION", "LONG_WORD", "MEMORY_SYSTEM", "NEAR_REQUEST", "NO_PASSAGES", "ORDER",
    "PASSAGES_SYSTEM", "POSSESSIVE", "PROMPTS_VERSION", "QUESTIONS_REQUEST", "QUESTION_LABEL", "REPETITIONS",
    "SENTENCE_BORDER", "SPEAKERS", "SPEAKER_LABEL", "STAND_IN_NAMES", "STAND_IN_THINGS", "UNKNOWN_ANSWER",
    "VALUES_REQUEST", "WRITING_REQUEST", "as_request", "compounds", "content_words", "declines", "decoys", "forms",
    "invented_word", "is_unknown", "leans_back", "names_source", "naming_words", "noun_pairs", "owner_and_owned",
]  # fmt: skip
