"""English words by which an answer takes a side: not, or, but, except, maybe, sure; and what stands before a name.

In: nothing. Out: sets of words in lower case, for `text/verdicts.py`. They are data: nothing here reads a sentence.
"""

from __future__ import annotations

ARTICLES = frozenset(("a", "an", "the"))
OWN = frozenset("my your our".split())  # the speaker's or the listener's: the two change places in an answer
THEIRS = frozenset("his her its their".split())
CONTRACTED = frozenset("it that what there here he she who where how when why let".split())  # it's: no owner
# An article before one of these is a letter: "vitamin A is good".
NOT_BEHIND_AN_ARTICLE = frozenset("is are was were and or in on at for to of but as it".split())

NEGATORS = frozenset("not never no neither nor cannot isnt wasnt arent doesnt dont didnt cant without".split())
NEGATED_BEHIND = frozenset("isn't wasn't aren't isnt wasnt arent".split())
COPULAS = frozenset("is was are were".split())
CONTRAST = frozenset("but rather instead actually sorry now correction".split())  # what comes behind them counts
ALL = frozenset("anything everything everyone everybody anyone anybody all any every".split())  # but ...
EXCLUDERS = frozenset("except excluding unlike than without".split())
EXCLUDING_PAIRS = frozenset((("instead", "of"), ("apart", "from"), ("aside", "from"), ("up", "to")))
FORMER = frozenset("formerly previously once earlier".split())
FORMER_PAIRS = frozenset((("used", "to"),))
BOUNDS = frozenset(
    "before after until till over under above below beyond past exceeding least most within nearly almost".split()
)
ALTERNATIVE = frozenset(("or", "either"))
TOGETHER = frozenset(("and", "plus", "&"))
HEDGES = frozenset("maybe perhaps possibly".split())
HEDGING_PAIRS = frozenset((("might", "be"), ("could", "be"), ("may", "be")))
YES, NO = frozenset("yes yeah yep yup correct true".split()), frozenset("no nope false incorrect".split())

LEADING = frozenset("in at on for by to from with of as because since into onto".split())  # may be left out of a value
LIKE_PLACES = frozenset(("in", "at", "on"))
PREPOSITIONS = LEADING | frozenset(
    "under over above below behind beside near before after until without between through against during inside "
    "outside beneath opposite".split()
)
TITLES = {
    word: words[0]
    for words in (
        ("dr", "doctor"), ("prof", "professor"), ("mr", "mister"), ("mrs",), ("ms",), ("miss",), ("sir",), ("lady",),
        ("lord",), ("rev", "reverend"), ("capt", "captain"), ("herr",), ("frau",),
    )
    for word in words
}  # fmt: skip

# Sentences of these and of the question's words alone do not answer yet.
OPENERS = frozenset(
    "sure yes no ok okay certainly course absolutely great good question hello hi thanks thank well alright right "
    "happy help glad let see answer asked asking want wanted i you we he she they me us".split()
)
