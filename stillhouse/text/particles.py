"""The few words of other languages that turn an answer round: not, or, but, maybe, yes, no, "I don't know", months.

In: nothing. Out: sets of words in lower case, NFKC, over all these languages together, and two patterns. An answer is
graded the same whatever language it is in, so one table serves all. A word that means something harmless in another of
them stays out ("of" is "or" in Dutch). Inflected forms are not known.
"""

from __future__ import annotations

import re

NEGATORS = frozenset(
    "nicht kein keine keinen keinem keiner nie niemals pas n' jamais non ni nunca jamás não nem nunca geen niet nooit "
    "inte ikke ej nie nigdy не нет ни никогда ليس ليست لا لم لن ولا 不 没 沒 非 未 無".split()
)
# Behind the value, up to two words later.
NEGATORS_BEHIND = frozenset("नहीं न değil".split())
NEGATED_BEHIND = re.compile(
    r"\s*(?:で|じゃ|では|は)(?:は)?(?:な[いくか]|あり?ません)|[가이은는]?\s*아[니닙]"
)  # Japanese, Korean
CONTRAST = frozenset(
    "sondern aber mais plutôt sino pero bensì ma mas maar utan men а но بل لكن बल्कि लेकिन 而 但".split()
)
ALTERNATIVE = frozenset("oder ou o eller lub albo или либо أو या veya 或".split())
TOGETHER = frozenset("und et y e och og и و और ve".split())
HEDGES = frozenset("vielleicht eventuell quizás quizá forse talvez misschien kanske ربما शायद".split())
YES = frozenset("ja oui si sí sì sim да نعم हाँ हां はい 네 예 是".split())
NO = frozenset("nein non no não nee nej нет لا नहीं いいえ 아니요 否 不".split())

UNKNOWN = re.compile(
    r"\bwei(?:ß|ss) (?:ich )?(?:es |das )?(?:leider )?nicht\b|\bwei(?:ß|ss) ich nicht\b|keine ahnung|nicht bekannt"
    r"|\bne sais pas\b|\bj'?ignore\b|aucune idée"
    r"|\bno (?:lo )?sé\b|\bno sabría\b|\bnon (?:lo )?so\b|\bnão (?:o )?sei\b|\bweet (?:ik )?(?:het )?niet\b"
    r"|\bvet (?:jag )?inte\b|\bved (?:jeg )?ikke\b|\bnie wiem\b"
    r"|(?:^|\W)не знаю|(?:^|\W)не могу (?:сказать|ответить)|неизвестно"
    r"|لا أعرف|لا أعلم|لا أدري|نہیں معلوم|नहीं (?:पता|मालूम|जानत)|(?:पता|मालूम) नहीं"
    r"|不知道|不清楚|不晓得|没有提到|沒有提到|わかりません|分かりません|わからない|分からない|知りません|知らない"
    r"|모르겠|모릅니다|몰라|ไม่ทราบ|ไม่รู้|bilmiyorum"
)
# What any of these needs in ASCII: looking for it is quick.
UNKNOWN_SIGNS = ("nicht", "keine", "sais", "ignore", "non ", "weet", "inte", "ikke", "wiem", "bilmi")

MONTHS = {
    word: n
    for n, words in enumerate(
        (
            "januar janvier enero gennaio janeiro januari января январь",
            "februar février febrero febbraio fevereiro februari февраля февраль",
            "märz mars marzo março maart марта март", "april avril abril aprile апреля апрель",
            "mai mayo maggio maio mei мая май", "juni juin junio giugno junho июня июнь",
            "juli juillet julio luglio julho июля июль", "august août agosto augustus августа август",
            "september septembre septiembre settembre setembro сентября сентябрь",
            "oktober octobre octubre ottobre outubro октября октябрь",
            "november novembre noviembre novembro ноября ноябрь",
            "dezember décembre diciembre dicembre dezembro december декабря декабрь",
        ),
        1,
    )
    for word in words.split()
}  # fmt: skip
BETWEEN_DATE_PARTS = frozenset("of de del di der den".split())
HOUR_SIGNS = frozenset(("uhr",))
ELISION = re.compile(r"(?:l|d|n|s|c|j|m|t|qu)'(?=\w\w)")  # l'école
# What Korean joins to a noun.
ATTACHED = frozenset(
    "은 는 이 가 을 를 의 에 에서 에게 와 과 도 만 로 으로 야 이야 요 예요 이에요 이다 입니다 라고 이라고 랑 이랑 "
    "까지 부터 하고 라고요 네요 이네요".split()
)
