"""E-mails: their heads, and who is quoted in an answer.

In: lines. Out: the head that they begin with (who wrote, when, about what), or the line that leads in a quotation. The
text of an e-mail is read like any other. It does not decode attachments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .dates import STAMP, date_of
from .lines import Line
from .words import words

_FIELD = re.compile(
    r"(?:>\s?)*(?:\*\*|\*|__)?(?P<name>[^\W\d_][\w-]{0,14}(?: [\w-]{1,10})?)\s*:(?:\*\*|\*|__)?\s*(?P<value>.*)"
)
_ADDRESS = re.compile(r"\s*[<(\[][^<>\s]*@[^<>\s]*[>)\]]|\s*\[mailto:[^\]]*\]")
_DATE = re.compile(STAMP, re.IGNORECASE)
_RULE = re.compile(r"-{2,}\s?[^\W\d_][\w -]{0,40}\s?-{2,}")
LEAST_FIELDS = 2
_SENDERS = {"from", "von", "de", "da", "van", "от", "fra", "från"}
_ABOUT = {"subject", "betreff", "objet", "asunto", "oggetto", "assunto", "onderwerp", "тема", "emne", "ämne"}
_WHEN = {
    "date",
    "sent",
    "datum",
    "gesendet",
    "fecha",
    "enviado",
    "envoyé",
    "data",
    "inviato",
    "verzonden",
    "дата",
    "le",
}


@dataclass(frozen=True)
class MailHead:
    """The head of an e-mail."""

    lines: int
    speaker: str
    date: str
    subject: str


def mail(lines: Sequence[Line], i: int) -> MailHead | None:
    """The head of an e-mail that stands at line `i`: two fields or more, who wrote it among them."""
    fields: dict[str, str] = {}
    at = i
    while at < len(lines) and at < i + 60:
        match = _FIELD.match(lines[at].bare)
        name = match["name"].lower() if match else ""
        if match and (name in words("mail fields") or (fields and _is_header(name))):
            fields.setdefault(name, match["value"])
        elif not (fields and lines[at].indent and lines[at].bare):  # a folded field goes on
            break
        at += 1
    sender = next((fields[name] for name in fields if name in _SENDERS), None)
    about = next((fields[name] for name in fields if name in _ABOUT), "")
    when = next((fields[name] for name in fields if name in _WHEN), "")
    if sender is None or len(fields) < LEAST_FIELDS or not (about or when or "@" in sender):
        return None
    stamp = _DATE.search(when)
    return MailHead(at - i, person(sender), date_of(stamp[0]) if stamp else "", about.strip())


def _is_header(name: str) -> bool:
    return "-" in name or name in ("received", "mime-version", "x-mailer", "attachments", "importance", "priority")


def person(text: str) -> str:
    """The name of somebody, without the address."""
    name = _ADDRESS.sub("", text).strip(" \"'*_")
    return name or text.strip(" <>")


def quoted(text: str) -> tuple[str, str] | None:
    """(speaker, date) of a line that leads in a quotation: "On 4 May 2024, Kim Vale wrote:"."""
    if not text.endswith((":", "：")) or len(text) > 240:
        return None
    plain = text.rstrip(":： ")
    verb = next((word for word in words("quote leads") if re.search(rf"\b{word}\b", plain, re.IGNORECASE)), None)
    stamps = list(_DATE.finditer(plain))
    if verb is None or not stamps:
        return None
    rest = re.sub(rf"\b{verb}\b", " ", plain[stamps[-1].end() :] + " ", flags=re.IGNORECASE)
    rest = rest if re.search(r"\w{2}", rest) else plain[: stamps[0].start()]
    rest = re.sub(r"^(?:on|am|le|el|il|op|den|at|um)\b|\b(?:uhr|at|um)\b", " ", rest.strip(" ,"), flags=re.IGNORECASE)
    date = next((d for d in map(date_of, (stamp[0] for stamp in stamps)) if d), "")
    name = person(re.sub(rf"\b{verb}\b", " ", rest, flags=re.IGNORECASE))
    return (" ".join(name.split()).strip(" ,"), date) if re.search(r"\w", name) else None
