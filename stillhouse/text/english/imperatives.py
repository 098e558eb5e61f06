"""An English question in another form: as an order, or as an indirect question.

In: a question. Out: the same request in other words ("Where does Ida live?" -> "Tell me where Ida lives."), or None
where the question has none of the forms known here. The result may be clumsy. Therefore a student is trained only on
those that the teacher answers as it answered the question (`capture/memory/study.py`).
"""

from __future__ import annotations

import re

_LEADS = ("Tell me:", "Please tell me:", "Do you know:", "Remind me:", "Quick question:")
_FRAMES = ("Tell me {}.", "Do you know {}?", "Can you tell me {}?", "Tell me {}.", "Do you remember {}?", "Say {}.")
_OWNED = r"(?:(?:the|my|our|your|his|her|their)\b|\S+'s\b)"
_NAMED = re.compile(rf"^What (?:is|are|was|were) ({_OWNED} ?.*\b(?!to\b|for\b|on\b|in\b|like\b|of\b)\w*[^\Wd])\?$")
_OWNER = re.compile(r"^([A-Z]\w*)'s ([a-z][\w -]*)$")
_OF = re.compile(r"^the ([a-z][\w -]*) of ([A-Z]\w*)$")
_MODAL = "can|must|will|should|may"
_AUX = f"is|are|was|were|do|does|{_MODAL}"
_QUESTION = re.compile(
    r"^(?P<wh>(?:(?:In|At|On|For|From|With|To|By) )?(?:What|Which|Who|Whom|When|Where|Why|How|what|which|whom|when)"
    rf"(?: (?!(?:{_AUX}|did|has|have)\b)[\w'-]+){{0,3}}?) (?P<aux>{_AUX}) (?P<rest>[^?,;]+)\?$"
)
_SUBJECT = re.compile(
    rf"^(?:Whose [^?,;]+|(?:Who|What|Which|How many|How much)\b(?! (?:{_AUX}|did|has|have)\b)[^?,;]+)\?$"
)
_POLITE = re.compile(r"^(?:Can|Could|Do|Will|Would) you (?:tell me|know|remember|say) ([^?:,;]+)\?$")
_PREPOSITION = "to|for|of|about|with|by|in|on|at|from|as|like"
_PRONOUN = re.compile(r"^(I|you|he|she|it|we|they)\b ?(.*)$")
_NAME = re.compile(r"^((?:[A-Z][\w-]*)(?: [A-Z][\w-]*)*) ?(.*)$")
_KIND_AND_NAME = re.compile(rf"^({_OWNED}(?: [a-z][\w-]*){{0,3}} [A-Z][\w-]*) (.+)$")
_PREDICATE = re.compile(r"^(?:in|at|on|under|behind|near|from|with|inside|for|called|named)\b")
_STATE = re.compile(
    r"^(.+?) ((?:\w{2,}ed|kept|held|born|due|set|made|built|known|hidden)"
    rf"(?: (?:{_PREPOSITION}))?|(?:the )?\w+ (?:{_PREPOSITION})|like|for|from)$"
)
_VERB = re.compile(
    r"^(.+?) ((?:have|do|live|work|like|prefer|own|need|take|start|begin|open|close|cost|lead|use|eat|drink|play|come|"
    r"go|run|end|stand|sit|weigh|contain|hold|stay|meet|belong|say|mean|speak|grow|keep|want|happen|leave|arrive)\b.*)$"
)
_LAST = re.compile(rf"^(.+?) (\w+ (?:{_PREPOSITION})|\w+)$")
_IRREGULAR = {"have": "has", "do": "does", "go": "goes"}


def as_request(question: str, turn: int) -> str:
    """The question as an order, in the way that `turn` picks among those its form allows.

    A question of another form stays as it is, behind a few words that lead in.
    """
    if (named := _NAMED.match(question)) is not None:
        return _FRAMES[turn % len(_FRAMES)].format(_turned(named[1]) if turn % 2 else named[1])
    if (inside := indirect(question)) is not None:
        return _FRAMES[turn % len(_FRAMES)].format(inside)
    return f"{_LEADS[turn % len(_LEADS)]} {question}"


def indirect(question: str) -> str | None:
    """The question as a part of a sentence: "When does the fair begin?" -> "when the fair begins"."""
    if (polite := _POLITE.match(question)) is not None:
        return polite[1]
    parts = _QUESTION.match(question)
    if parts is None:
        return _lower(question.rstrip("?")) if _SUBJECT.match(question) else None
    wh, aux, rest = _lower(parts["wh"]), parts["aux"], parts["rest"]
    if aux in ("do", "does"):
        clause = _with_verb(rest, third=aux == "does")
    elif _PREDICATE.match(rest):  # the question is about the subject: "How many cups are in the garden?"
        clause = f"{aux} {rest}"
    else:
        clause = _with_be(rest, aux) if aux in ("is", "are", "was", "were") else _with_modal(rest, aux)
    return None if clause is None else f"{wh} {clause}"


def _with_be(rest: str, aux: str) -> str:
    """The form of "be" behind its subject: "Ida born" and "was" give "Ida was born"."""
    for form in (_PRONOUN, _KIND_AND_NAME):
        if (match := form.match(rest)) is not None:
            return f"{match[1]} {aux} {match[2]}".rstrip()
    if (match := _STATE.match(rest)) is not None:
        return f"{match[1]} {aux} {match[2]}"
    return f"{rest} {aux}"


def _with_modal(rest: str, aux: str) -> str | None:
    """The modal verb behind its subject: "I call Ida" and "can" give "I can call Ida"."""
    match = _PRONOUN.match(rest) or _KIND_AND_NAME.match(rest) or _NAME.match(rest)
    return f"{match[1]} {aux} {match[2]}" if match is not None and match[2] else None


def _with_verb(rest: str, third: bool) -> str | None:
    """The clause without "do": "Ida live" gives "Ida lives" with `third`, and stays as it is without."""
    for form in (_PRONOUN, _KIND_AND_NAME, _VERB, _NAME, _LAST):
        match = form.match(rest)
        if match is not None and match[2]:
            verb, *others = match[2].split()
            return " ".join([match[1], _third(verb) if third else verb, *others])
    return None


def _third(verb: str) -> str:
    """The form of a verb behind "she"."""
    if verb in _IRREGULAR:
        return _IRREGULAR[verb]
    if re.search(r"(?:s|x|z|ch|sh)$", verb):
        return f"{verb}es"
    return re.sub(r"(?<=[^aeiou])y$", "ie", verb) + "s"


def _turned(named: str) -> str:
    """The other form of an owner: "Emma's job" gives "the job of Emma", and back; other names stay as they are."""
    if (owner := _OWNER.match(named)) is not None:
        return f"the {owner[2]} of {owner[1]}"
    of = _OF.match(named)
    return f"{of[2]}'s {of[1]}" if of is not None else named


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
