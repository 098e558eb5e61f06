"""The language that memories are written in: the one place that names it.

Everything outside `text/` that depends on the language takes it from here. The list below is what a language has to
provide; each name is described where it stands (`english/`).
"""

from __future__ import annotations

from .english.changes import RENAMED, ended, plain_forms
from .english.everyday import EVERYDAY_PROMPTS, decoys
from .english.imperatives import as_request
from .english.numerals import (
    CARDINALS,
    HALVES_OF_A_DAY,
    HOUR_SIGNS,
    HOURS,
    JOINING,
    LONG_UNITS,
    MONTH_NAMES,
    MONTH_OR_VERB,
    MONTHS,
    MULTIPLIERS,
    NEGATIVE,
    NO_MONTH,
    NO_NUMBER_BEFORE_ONE,
    OF_THE_DAY,
    ORDINALS,
    PARTS_OF_A_DAY,
    PARTS_OF_AN_HOUR,
    UNITS,
    WEEKDAYS,
)
from .english.refusals import declines, is_unknown
from .english.sentences import (
    ABBREVIATION,
    ABBREVIATIONS,
    ENDING_ABBREVIATIONS,
    LONGEST_ABBREVIATION,
    NUMBERING,
    ORDER,
    SENTENCE_BORDER,
    SPEAKER_LABEL,
    leans_back,
)
from .english.sources import names_source
from .english.stance import (
    ALL,
    ALTERNATIVE,
    ARTICLES,
    BOUNDS,
    CONTRACTED,
    CONTRAST,
    COPULAS,
    EXCLUDERS,
    EXCLUDING_PAIRS,
    FORMER,
    FORMER_PAIRS,
    HEDGES,
    HEDGING_PAIRS,
    LEADING,
    LIKE_PLACES,
    NEGATED_BEHIND,
    NEGATORS,
    NO,
    NOT_BEHIND_AN_ARTICLE,
    OPENERS,
    OWN,
    PREPOSITIONS,
    THEIRS,
    TITLES,
    TOGETHER,
    YES,
)
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
    "ABBREVIATION", "ABBREVIATIONS", "ALL", "ALTERNATIVE", "ANSWER_LABEL", "ARTICLES", "BOUNDS", "CARDINALS",
    "COMMON_NOUNS", "COMPLETION_REQUEST", "CONTRACTED", "CONTRAST", "COPULAS", "DROPPED_WORDS",
    "ENDING_ABBREVIATIONS", "EVERYDAY_PROMPTS", "EXCLUDERS", "EXCLUDING_PAIRS", "FORMER", "FORMER_PAIRS",
    "FUNCTION_WORDS", "HALVES_OF_A_DAY", "HEDGES", "HEDGING_PAIRS", "HOURS", "HOUR_SIGNS", "JOINING", "LEADING",
    "LIKE_PLACES", "LONGEST_ABBREVIATION", "LONG_UNITS", "LONG_WORD", "MEMORY_SYSTEM", "MONTHS", "MONTH_NAMES",
    "MONTH_OR_VERB", "MULTIPLIERS", "NEAR_REQUEST", "NEGATED_BEHIND", "NEGATIVE", "NEGATORS", "NO",
    "NOT_BEHIND_AN_ARTICLE", "NO_MONTH", "NO_NUMBER_BEFORE_ONE", "NO_PASSAGES", "NUMBERING", "OF_THE_DAY", "OPENERS",
    "ORDER", "ORDINALS", "OWN", "PARTS_OF_AN_HOUR", "PARTS_OF_A_DAY", "PASSAGES_SYSTEM", "POSSESSIVE", "PREPOSITIONS",
    "PROMPTS_VERSION", "QUESTIONS_REQUEST", "QUESTION_LABEL", "RENAMED", "REPETITIONS", "SENTENCE_BORDER", "SPEAKERS",
    "SPEAKER_LABEL", "STAND_IN_NAMES", "STAND_IN_THINGS", "THEIRS", "TITLES", "TOGETHER", "UNITS", "UNKNOWN_ANSWER",
    "VALUES_REQUEST", "WEEKDAYS", "WRITING_REQUEST", "YES", "as_request", "compounds", "content_words", "declines",
    "decoys", "ended", "forms", "invented_word", "is_unknown", "leans_back", "names_source", "naming_words",
    "noun_pairs", "owner_and_owned", "plain_forms",
]  # fmt: skip
