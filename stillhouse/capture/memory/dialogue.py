"""Everything that is asked about one chunk of a memory, as one dialogue with its teacher.

In: a chunk, the settings. Out: questions with the teacher's answers: about what the chunk says, about what it does not
say, and some of the former as orders. The dialogue yields what it wants to know next (`batching.py`), so that many
chunks are asked about at once.

It does not know other chunks; `study.py` joins what comes of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace

from ...generate import Sampling
from ...models import Model
from ...records import Question, Statement, Use
from ...text.answers import Expected, foils, grade, normalise
from ...text.language import as_request, decoys, is_unknown
from ...text.prompts import UNKNOWN_ANSWER, writing_request
from .batching import Dialogue
from .chunks import MemoryChunk
from .grounding import is_cut_of
from .questions import candidates, cloze, hardest, lost_words, mask, near_misses, repair, unmask
from .settings import Config
from .teacher import AnswerRequest, MemoryTeacher, TeacherAnswer, WriteRequest

AS_ORDERS = 1 / 3  # share of the questions that a memory does not answer
CERTAIN = 3  # wordings written with one answer, from which that answer is believed though the teacher does not give it
LINE_TOKENS = 40  # room for one written question with its answer
WARM = 0.8  # temperature at which a teacher writes again
UNKNOWN_HELD_OUT = 0.25  # share of the questions that a memory does not answer

OnStep = Callable[[int], None]
Pairs = list[tuple[Question, TeacherAnswer]]


def chunk_dialogue(model: Model, chunk: MemoryChunk, config: Config, number: int, on_step: OnStep) -> Dialogue[Pairs]:
    """Everything that is asked about one chunk. `number`: its place in the memory, for the seeds."""
    teacher = MemoryTeacher(model, chunk.text, config.sparsity, seed=config.seed + number)
    count = len(chunk.statements)
    known = yield from ask_known(teacher, chunk, config)
    on_step(count // 2)  # the other half of the time goes into what the memory does not say
    trained = [q for q, _ in known if q.use == "train"]  # a held-out wording must not be learned as unanswerable
    held_out = {normalise(q.text) for q, _ in known if q.use == "held_out"}
    unknown = yield from _ask_unknown(teacher, trained, held_out, count, config, number)
    orders = yield from _ask_as_orders(teacher, known, config, number)
    on_step(count - count // 2)
    return [*known, *unknown, *orders]


def ask_known(teacher: MemoryTeacher, chunk: MemoryChunk, config: Config) -> Dialogue[Pairs]:
    """Questions about every statement of the chunk that the teacher answers as it wrote them; one wording of each is
    held out. A statement that reads like an order is not asked about.

    Where the teacher lost words of a statement while writing, it writes again about the statement with everyday words
    in their place. Where it wrote too few usable questions, it writes again, sampled.
    """
    targets = [s for s in chunk.statements if not s.instruction]
    by_index = {s.index: s for s in targets}
    verified: dict[int, Pairs] = {s.index: [] for s in targets}
    lost: dict[int, list[str]] = {}
    doubtful: list[Question] = []
    drafts: dict[int, list[Question]] = {}
    missing = targets
    for turn in range(config.rounds + 1):
        written: list[Question] = []
        for statement, reply in (yield from _write_questions(teacher, missing, lost, turn, config)):
            reply = repair(reply, statement)
            words = lost_words(reply, statement)
            questions = candidates(reply, statement)
            if words and turn < config.rounds:
                lost[statement.index] = words
                doubtful += questions
            else:
                written += questions
                drafts.setdefault(statement.index, [q for q in questions if q.direction == "forward"])
        yield from _verify(teacher, by_index, written, verified, config)
        missing = [s for s in missing if not _is_enough(verified[s.index])]
        if not missing:
            break
        if turn:  # sampling has not helped: the fact is told again with an everyday word for its hardest one
            for statement in missing:
                lost.setdefault(statement.index, hardest(statement, lambda word: len(teacher.model.text_ids(word))))
    yield from _last_resorts(teacher, by_index, drafts, doubtful, verified, config)
    return [pair for s in targets for pair in hold_out(verified[s.index], s)]


def _last_resorts(
    teacher: MemoryTeacher,
    targets: Mapping[int, Statement],
    drafts: Mapping[int, Sequence[Question]],
    doubtful: Sequence[Question],
    verified: dict[int, Pairs],
    config: Config,
) -> Dialogue[None]:
    """Questions for statements that have no forward question, from the best source that is left.

    First the questions written while words were lost; then those written with one answer `CERTAIN` times, with that
    answer as a hard label; at last the statement with its end left out.
    """

    def bare() -> list[Statement]:
        return [s for s in targets.values() if not any(q.direction == "forward" for q, _ in verified[s.index])]

    without = {s.index for s in bare()}
    yield from _verify(teacher, targets, [q for q in doubtful if q.statement in without], verified, config)
    for statement in bare():
        if len(drafts.get(statement.index, [])) >= CERTAIN:
            verified[statement.index] += [_as_written(teacher, q) for q in drafts[statement.index]]
    rest = [q for s in bare() if not verified[s.index] for q in cloze(s)]
    (answers,) = yield from _answer_all([(teacher, rest)], config)
    for question, answer in zip(rest, answers, strict=True):
        if not is_unknown(answer.text):  # or the student would be taught to refuse what it is examined on
            verified[question.statement or 0].append((replace(question, teacher=answer.text), answer))


def _write_questions(
    teacher: MemoryTeacher, missing: Sequence[Statement], lost: Mapping[int, Sequence[str]], turn: int, config: Config
) -> Dialogue[list[tuple[Statement, str]]]:
    """What the teacher writes about each statement: greedy at first and where words are masked, else sampled."""
    room = LINE_TOKENS * (config.wordings + 1)
    masked = [s for s in missing if s.index in lost]
    plain = [s for s in missing if s.index not in lost]
    forms = [mask(s.text, lost[s.index], turn) for s in masked]
    greedy, sampled = Sampling(room, 0.0, config.seed), Sampling(room, WARM, config.seed + turn)
    again = WriteRequest(teacher, [writing_request(text, config.wordings) for text, _ in forms], greedy)
    first = WriteRequest(
        teacher, [writing_request(s.text, config.wordings) for s in plain], sampled if turn else greedy
    )
    replies, written = yield [again, first]
    unmasked = [(s, unmask(r, stand_ins)) for s, r, (_, stand_ins) in zip(masked, replies, forms, strict=True)]
    return unmasked + list(zip(plain, written, strict=True))


def _verify(
    teacher: MemoryTeacher,
    targets: Mapping[int, Statement],
    written: Sequence[Question],
    verified: dict[int, Pairs],
    config: Config,
) -> Dialogue[None]:
    """Keep the questions that the teacher answers as it wrote them.

    It reads the whole chunk at first. A question that it fails is asked again with its statement alone in the context,
    where a small teacher errs less. A reverse question that it fails then too keeps the answer that was written, which
    stands in the statement, as a hard label; one of them for a statement without a reverse question.
    """
    known = {normalise(q.text) for pairs in verified.values() for q, _ in pairs}
    fresh = [q for q in written if normalise(q.text) not in known]
    (failed,) = yield from _keep_agreed([(teacher, fresh)], targets, verified, config)
    by_statement: dict[int, list[Question]] = {}
    for question in failed:
        if question.statement is not None:
            by_statement.setdefault(question.statement, []).append(question)
    alone = [(teacher.with_memory(targets[statement].text), mine) for statement, mine in by_statement.items()]
    failed_alone = yield from _keep_agreed(alone, targets, verified, config)
    for statement, still in zip(by_statement, failed_alone, strict=True):
        if not any(q.direction == "reverse" for q, _ in verified[statement]):
            backwards = [q for q in still if q.direction == "reverse"][:1]
            verified[statement] += [_as_written(teacher, q) for q in backwards]


def _as_written(teacher: MemoryTeacher, question: Question) -> tuple[Question, TeacherAnswer]:
    """A question with the answer that was written for it, as a hard label."""
    return replace(question, teacher=question.answer), teacher.hard_answer(question.text, question.answer)


def _keep_agreed(
    questions: Sequence[tuple[MemoryTeacher, Sequence[Question]]],
    targets: Mapping[int, Statement],
    verified: dict[int, Pairs],
    config: Config,
) -> Dialogue[list[list[Question]]]:
    """Put the questions that a teacher answers as written into `verified`; return each teacher's other questions.

    A teacher that cuts the value ("Dr" for "Dr. Holm") means it: the question keeps the whole one, as a hard label.
    """
    failed: list[list[Question]] = []
    answered = yield from _answer_all(questions, config)
    for (teacher, mine), answers in zip(questions, answered, strict=True):
        failed.append([])
        for question, answer in zip(mine, answers, strict=True):
            if question.statement is None:
                continue
            kept = verified[question.statement]
            if is_cut_of(answer.text, question.answer, targets[question.statement].text):
                kept.append(_as_written(teacher, question))
            elif grade(answer.text, _expected(question, mine)).correct:
                kept.append((replace(question, teacher=answer.text), answer))
            else:
                failed[-1].append(question)
    return failed


def _expected(question: Question, asked: Sequence[Question]) -> Expected:
    """What the teacher's answer to a question is expected to say. Answers about other statements must not stand beside
    it: to reverse questions those of reverse ones, to all others those of all others."""
    reverse = question.direction == "reverse"
    values = {q.answer for q in asked if q.statement == question.statement}
    others = [q.answer for q in asked if (q.direction == "reverse") == reverse and q.answer not in values]
    return Expected(question.answer, (), foils(question.answer, question.text, others), question.text)


def _answer_all(
    questions: Sequence[tuple[MemoryTeacher, Sequence[Question]]], config: Config
) -> Dialogue[list[list[TeacherAnswer]]]:
    """Each teacher's answers to its questions; the answers written for them are guesses that save time."""
    if not any(mine for _, mine in questions):
        return [[] for _ in questions]
    return (
        yield [
            AnswerRequest(teacher, [q.text for q in mine], config.max_answer_tokens, [q.answer for q in mine])
            for teacher, mine in questions
        ]
    )


def _is_enough(pairs: Pairs) -> bool:
    """Whether three forward wordings can be trained on, one held out, and there is a reverse question."""
    forward = sum(q.direction == "forward" for q, _ in pairs)
    return forward >= 4 and any(q.direction == "reverse" for q, _ in pairs)


def hold_out(pairs: Pairs, statement: Statement) -> Pairs:
    """The pairs with one forward wording held out, where at least three remain to train on.

    Statements hold out different wordings, but never the first one: what comes to the teacher's mind first is what
    people will ask.
    """
    forward = [i for i, (q, _) in enumerate(pairs) if q.direction == "forward"]
    if len(forward) < 4:
        return pairs
    chosen = forward[1 + statement.index % (len(forward) - 1)]
    return [(replace(q, use="held_out") if i == chosen else q, a) for i, (q, a) in enumerate(pairs)]


def _ask_unknown(
    teacher: MemoryTeacher, known: Sequence[Question], held_out: Set[str], count: int, config: Config, number: int
) -> Dialogue[Pairs]:
    """Near misses and decoys on which the teacher, with the memory before it, says that it does not know."""
    rng = random.Random(f"{config.seed}/{number}/unknown")
    sources = [q for q in known if q.direction != "cloze"]
    wanted = count * config.unknown_per_statement
    texts: list[str] = []
    for some in ([q for q in sources if q.direction == "reverse"], [q for q in sources if q.direction != "reverse"]):
        each = max(1, wanted // (2 * max(1, len(some))) + 1)
        misses = near_misses(some, per_question=each, seed=config.seed + number)
        misses = [text for text in misses if normalise(text) not in held_out]
        texts += rng.sample(misses, min(len(misses), wanted // 2))
    texts += rng.sample(decoys(), min(len(decoys()), config.decoys))
    texts = [as_request(text, turn) if rng.random() < AS_ORDERS else text for turn, text in enumerate(texts)]
    likely = [UNKNOWN_ANSWER] * len(texts)
    (answers,) = yield [AnswerRequest(teacher, texts, config.max_answer_tokens, likely)]
    pairs: Pairs = []
    for text, answer in zip(texts, answers, strict=True):
        if is_unknown(answer.text):
            use: Use = "held_out" if rng.random() < UNKNOWN_HELD_OUT else "train"
            pairs.append((Question(text, UNKNOWN_ANSWER, None, "unknown", use, answer.text), answer))
    return pairs


def _ask_as_orders(teacher: MemoryTeacher, known: Pairs, config: Config, number: int) -> Dialogue[Pairs]:
    """Two forward questions of every statement and a reverse one again, as orders: people do not only ask.

    A student must not tell by the form of a request whether it knows the answer. Therefore `AS_ORDERS` of the questions
    that the memory does not answer are orders too.
    """
    rng = random.Random(f"{config.seed}/{number}/requests")
    groups: dict[tuple[int | None, str], list[Question]] = {}
    for question, _ in known:
        if question.use == "train" and question.direction != "cloze":
            groups.setdefault((question.statement, question.direction), []).append(question)
    chosen = [
        question
        for (_, direction), questions in groups.items()
        for question in rng.sample(questions, min(len(questions), 2 if direction == "forward" else 1))
    ]
    held_out = {normalise(question.text) for question, _ in known if question.use == "held_out"}
    orders = [replace(q, text=as_request(q.text, turn)) for turn, q in enumerate(chosen)]
    orders = [q for q in orders if normalise(q.text) not in held_out]
    (answers,) = yield from _answer_all([(teacher, orders)], config)
    return [
        (replace(question, direction="request", teacher=answer.text), answer)
        for question, answer in zip(orders, answers, strict=True)
        if grade(answer.text, _expected(question, [q for q, _ in known])).correct
    ]
