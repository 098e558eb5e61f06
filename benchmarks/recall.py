"""Does it know? 30 unseen memories become weights; then everybody is asked in words that nobody trained on.

    python benchmarks/recall.py [--model REF] [--memories 30] [--home DIR] [--quick]

Memories have 8 to 12 statements with unseen values and relation words. They are consolidated with the default settings,
several users in a batch, and all adapters are examined, the rejected ones too. Asked are all wordings of the world that
are not among the study's trained questions; the teacher gets the same ones with the memory in its context. Other users'
adapters are asked one question per statement; unknown questions are about close facts that the memory does not state.
With `--home`, what is done there already is not done again.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._machine import Figure, machine, say, table
from benchmarks._memories import users
from benchmarks._students import Student, student
from stillhouse import models
from stillhouse.capture.memory.teacher import MemoryTeacher
from stillhouse.consolidation import Consolidation, consolidate_all
from stillhouse.gate.regression import Config as RegressionConfig
from stillhouse.gate.regression import check as regression
from stillhouse.gating.answers import not_correct
from stillhouse.gating.stats import bootstrap, wilson
from stillhouse.generate import Sampling
from stillhouse.records import Candidate
from stillhouse.signals.sparsify import Sparsity
from stillhouse.store import Store
from stillhouse.text import corpus
from stillhouse.text.answers import Expected, foils, grade, normalise
from stillhouse.text.prompts import UNKNOWN_ANSWER
from tiny.world import WRITER_WORDINGS, Memory

OTHERS = 4  # other users whose questions an adapter is asked
PASSAGES, PASSAGES_SEED = 32, 1  # held-out text, drawn apart from the gate's


@dataclass(frozen=True)
class Asked:
    """One question with what is right. `reader`: a wording writers never use; `covered`: its statement is."""

    question: str
    answer: str
    reader: bool = False
    covered: bool = True
    foils: tuple[str, ...] = ()  # answers about the memory's other statements

    def verdict(self, reply: str) -> str:
        return grade(reply, Expected(self.answer, (), self.foils, self.question)).verdict

    def right(self, reply: str) -> bool:
        return self.verdict(reply) == "correct"


@dataclass
class Marks:
    """Right or wrong, per user in the order examined."""

    teacher: list[list[bool]] = field(default_factory=list)
    student: list[list[bool]] = field(default_factory=list)
    asked: list[list[Asked]] = field(default_factory=list)
    reverse: list[bool] = field(default_factory=list)
    unknown: list[bool] = field(default_factory=list)
    teacher_unknown: list[bool] = field(default_factory=list)
    others: list[bool] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)  # of the student
    shared: int = 0  # of the answered ones, those the other user's own memory states too
    perplexity: list[float] = field(default_factory=list)
    approved: list[bool] = field(default_factory=list)


def untrained(memory: Memory, result: Consolidation) -> list[Asked]:
    """Every wording of every stated fact that the student was not trained on."""
    trained = {normalise(q.text) for q in result.study.questions if q.use == "train"}
    uncovered, values = set(result.uncovered), [fact.answer for fact in memory.facts]
    return [
        Asked(
            question,
            fact.answer,
            i >= WRITER_WORDINGS,
            fact.statement not in uncovered,
            foils(fact.answer, question, values),
        )
        for fact in memory.facts
        for i, question in enumerate(fact.questions)
        if normalise(question) not in trained
    ]


def unstated(memory: Memory, result: Consolidation) -> list[str]:
    """Questions about facts the memory does not state, none of which the study has in any use."""
    studied = {normalise(q.text) for q in result.study.questions}
    return [q for fact in memory.unknown for q in fact.questions if normalise(q) not in studied]


def untrained_reverse(memory: Memory, result: Consolidation) -> list[Asked]:
    """Reverse questions in wordings that were not trained on."""
    trained = {normalise(q.text) for q in result.study.questions if q.use == "train"}
    return [Asked(q, a) for fact in memory.facts for q, a in fact.reverse if normalise(q) not in trained]


def consolidated(
    memories: Mapping[str, Memory], model: models.Model, home: Path, together: int
) -> dict[str, Consolidation]:
    """All users, `together` at a time, with the default settings."""
    names, found = list(memories), {}
    for start in range(0, len(names), together):
        group = names[start : start + together]
        for result in consolidate_all({u: memories[u].text for u in group}, model=model, home=home):
            found[result.user] = result
            failed = f", rejected by {', '.join(result.failed)}" if result.failed else ""
            say(f"{result.user}: coverage {result.coverage:.0%}{failed} ({len(found)}/{len(names)})")
        parts = ", ".join(f"{stage} {took / len(group):.1f} s" for stage, took in result.seconds.items())
        say(f"  per user: {parts}")
    return found


def examine(
    model: models.Model, memories: Mapping[str, Memory], results: Mapping[str, Consolidation], home: Path
) -> Marks:
    """Ask teachers and students everything; wrong answers go to stderr."""
    marks, names = Marks(), list(memories)
    for at, user in enumerate(names):
        memory, result = memories[user], results[user]
        asked, unknown = untrained(memory, result), unstated(memory, result)
        reading = MemoryTeacher(model, memory.text, Sparsity(), 0)
        replies = reading.write([a.question for a in asked] + unknown, Sampling(48))
        marks.teacher.append([a.right(reply) for reply, a in zip(replies, asked, strict=False)])
        honest = zip(unknown, replies[len(asked) :], strict=True)
        marks.teacher_unknown += [Asked(question, UNKNOWN_ANSWER).right(reply) for question, reply in honest]
        marks.asked.append(asked)
        with student(model, home, result) as taught:
            _ask_own(taught, asked, unknown, untrained_reverse(memory, result), marks)
            others = [names[(at + k) % len(names)] for k in range(1, min(OTHERS, len(names) - 1) + 1)]
            _ask_others(taught, memory, [memories[other] for other in others], marks)
            marks.perplexity.append(_perplexity(taught, home, result))
            marks.approved.append(not result.failed)
        score = f"{sum(marks.student[-1])} of {len(asked)}, perplexity {marks.perplexity[-1]:+.1%}"
        say(f"examined {user} ({at + 1}/{len(names)}): {score}")
    return marks


def _ask_own(
    taught: Student, asked: Sequence[Asked], unknown: Sequence[str], reverse: Sequence[Asked], marks: Marks
) -> None:
    replies = iter(taught.answers([a.question for a in asked] + list(unknown) + [a.question for a in reverse]))
    given = [(a, next(replies)) for a in asked]
    marks.verdicts.update(a.verdict(reply) for a, reply in given)
    marks.student.append([_marked(a, reply) for a, reply in given])
    marks.unknown += [_marked(Asked(question, UNKNOWN_ANSWER), next(replies)) for question in unknown]
    marks.reverse += [a.right(next(replies)) for a in reverse]


def _marked(asked: Asked, reply: str) -> bool:
    good = asked.right(reply)
    if not good:
        say(f"  {asked.question} -> {reply!r}, expected {asked.answer!r}")
    return good


def _ask_others(taught: Student, own: Memory, others: Sequence[Memory], marks: Marks) -> None:
    """One question per statement of other users' memories; answering right is a leak or a guess."""
    rng = random.Random("benchmarks/recall/others")
    asked = [Asked(rng.choice(fact.questions), fact.answer) for memory in others for fact in memory.facts]
    stated = {(normalise(q), normalise(f.answer)) for f in own.facts for q in f.questions}
    for a, reply in zip(asked, taught.answers([a.question for a in asked]), strict=True):
        marks.others.append(a.verdict(reply) in ("correct", "hedged"))
        marks.shared += marks.others[-1] and (normalise(a.question), normalise(a.answer)) in stated


def _perplexity(taught: Student, home: Path, result: Consolidation) -> float:
    """Rise of perplexity on held-out text, a fraction."""
    candidate = Store(home).get(Candidate, result.version.candidate)
    measured = regression(candidate, RegressionConfig(), taught.context(corpus.held_out(PASSAGES, PASSAGES_SEED)))
    return float("nan") if measured.value is None else measured.value


def judged(marks: Marks, memories: int) -> list[Figure]:
    """The figures with targets. Recall's interval resamples memories: wordings of one statement fall together."""
    both = [sum(map(all, zip(*pair, strict=True))) for pair in zip(marks.teacher, marks.student, strict=True)]
    teacher = [sum(row) for row in marks.teacher]
    recall = sum(both) / max(1, sum(teacher))
    rise, worst = statistics.fmean(marks.perplexity), max(marks.perplexity)
    mean = bootstrap(marks.perplexity)
    served = [rise for rise, good in zip(marks.perplexity, marks.approved, strict=True) if good]
    text = f"{memories} adapters, {PASSAGES} passages"
    return [
        Figure("student right where its teacher is, untrained wordings", recall, "%", 0.95,
               interval=bootstrap(both, teacher), note=f"n={sum(teacher)}, {memories} memories"),
        share("unknown questions still unknown", marks.unknown, 0.90),
        share("another user's adapter answers", marks.others, 0.02, at_least=False,
              note=f", {marks.shared} of the answered stated by both users"),
        Figure("perplexity of held-out text, mean rise", rise, "%%", 0.02, at_least=False, interval=mean, note=text),
        Figure("  the worst adapter", worst, "%%", 0.02, at_least=False,
               note=f"of the {len(served)} approved ones {max(served, default=float('nan')):+.2%}"),
    ]  # fmt: skip


def told(marks: Marks, results: Sequence[Consolidation]) -> list[Figure]:
    """The figures beside them. What is not covered is judged by being listed: `main` names every such statement."""
    rows = [pair for both in zip(marks.student, marks.asked, strict=True) for pair in zip(*both, strict=True)]
    covered = [r.study.covered(s.index) for r in results for s in r.study.statements if not s.instruction]
    return [
        share("coverage: 3 trained wordings and the reverse", covered, note=", the others are listed above"),
        share("approved by all gates", [r.approved for r in results]),
        share("teacher with the memory, the same questions", [m for row in marks.teacher for m in row]),
        share("  unknown questions", marks.teacher_unknown),
        share("student, the same questions", [right for right, _ in rows], note=not_correct(marks.verdicts)),
        share("  about statements that are covered", [right for right, a in rows if a.covered]),
        share("  wordings the model itself would write", [right for right, a in rows if not a.reader]),
        share("  wordings it never writes", [right for right, a in rows if a.reader]),
        share("  reverse questions in untrained wordings", marks.reverse),
    ]


def share(
    what: str, marks: Sequence[bool], target: float | None = None, at_least: bool = True, note: str = ""
) -> Figure:
    """A proportion with Wilson's interval."""
    n, hits = len(marks), sum(marks)
    interval = wilson(hits, n)
    return Figure(what, hits / n if n else float("nan"), "%", target, at_least, interval, f"n={n}{note}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--memories", type=int, default=30)
    parser.add_argument("--together", type=int, default=10, help="users consolidated in one batch")
    parser.add_argument("--home", type=Path, help="keep everything here, and go on from what is there")
    parser.add_argument("--quick", action="store_true", help="3 memories")
    args = parser.parse_args()
    memories = users("recall", 3 if args.quick else args.memories)
    model = models.load(args.model)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        home = args.home or Path(folder)
        results = consolidated(memories, model, home, args.together)
        marks = examine(model, memories, results, home)
    for user, result in results.items():
        for text in result.uncovered:
            print(f"uncovered, {user}: {text}")
    failed = [gate for result in results.values() for gate in result.failed]
    print("gates that refused: " + (", ".join(f"{g} {failed.count(g)}" for g in sorted(set(failed))) or "none"))
    return table(judged(marks, len(results)) + told(marks, list(results.values())))


if __name__ == "__main__":
    sys.exit(main())
