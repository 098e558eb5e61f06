"""The behavioural gates on recorded responses, exact; a trace written, read back, cut off and made wrong; and a student
that really cites."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch
from torch.nn import functional
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from stillhouse import models
from stillhouse.errors import InputError
from stillhouse.gate import abstention, citation_precision, citation_recall, refusal, routing, stability
from stillhouse.gating import Config, Context, DoesNotApply, LabelThresholds, read_trace, run, write_trace
from stillhouse.gating.grounded.citations import Citation
from stillhouse.gating.grounded.corpus import Corpus, CorpusPassage
from stillhouse.gating.grounded.evidence import CorpusEvidence
from stillhouse.gating.grounded.responses import ResponseRecord, grounded_prompt, prompt_id
from stillhouse.gating.grounded.trace import Trace
from stillhouse.gating.grounded.trace_lines import FIELDS, LayerRecord, TokenRecord, parse_record, trace_line
from stillhouse.gating.stats import wilson
from stillhouse.gating.suite import Suite, SuiteQuestion
from stillhouse.generate import pad_right
from stillhouse.lora import AdapterBank, LoraConfig
from stillhouse.models import Model
from stillhouse.records import Candidate, GateResult, Study
from stillhouse.retrieve.lexical import LexicalIndex
from stillhouse.runners import TorchRunner
from stillhouse.text.prompts import UNKNOWN_ANSWER
from tests import tokenizers
from tests.gating.conftest import BROKEN, FRESH, STUDENT, Bench

QUESTIONS = ("Name of the dog?", "Which door code?", "Where does Ilse live?", "Colour of the cat?")
TEXTS = (
    "My dog is Rex.", "Rex, the dog.", "Our dog: Rex.", "Dog Rex.",
    "Door code: 7714.", "Door code: 9902.", "Ilse lives in Ghent.", "It rained on Monday.",
)  # fmt: skip
ANSWERS = ("Rex [1, 2, 3].", "7714 [1].", UNKNOWN_ANSWER, UNKNOWN_ANSWER)


def corpus(texts: tuple[str, ...] = TEXTS) -> Corpus:
    return Corpus(tuple(CorpusPassage(f"p{n}", text, f"s{n % 4}") for n, text in enumerate(texts)), LexicalIndex)


def response(
    question: str, label: Any, support: str = "", cited: tuple[tuple[str, bool], ...] = (), refused: bool = False
) -> ResponseRecord:
    """`support`: ids of one letter; `cited`: passage and whether it holds."""
    told = CorpusEvidence(tuple(support), float(len(support)), 0.0, 0.0 if support else 1.0)
    given = tuple(Citation(passage, "words", holds) for passage, holds in cited)
    return ResponseRecord(
        prompt_id(question, grounded=True), label == "indeterminate", refused, 0.5, "stop", given, told, label
    )


RECORDED = (
    response(QUESTIONS[0], "resolved", "abcd", (("a", True), ("b", True), ("z", True), ("c", False))),
    response(QUESTIONS[1], "contested", "ef", (("e", True),), refused=True),
    response(QUESTIONS[2], "resolved", "gh", ()),
    response(QUESTIONS[3], "indeterminate", "", (), refused=True),
)


def replayed(bench: Bench, responses: tuple[ResponseRecord, ...], layers: tuple[LayerRecord, ...] = ()) -> Context:
    ctx = bench.context(STUDENT)
    ctx.suite = Suite("mine", tuple(SuiteQuestion(q, "?") for q in QUESTIONS))
    ctx.trace = Trace("trace.jsonl", responses, (), layers)
    return ctx


def measured(found: GateResult | DoesNotApply) -> GateResult:
    assert not isinstance(found, DoesNotApply)
    return found


def test_citation_precision_by_hand(bench: Bench) -> None:
    """Five citations, four of them valid."""
    ctx = replayed(bench, RECORDED)
    found = measured(citation_precision.check(bench.candidate, citation_precision.Config(), ctx))
    assert (found.value, found.n, found.passed) == (4 / 5, 5, False)
    assert found.details["invalid"] == [{"prompt": RECORDED[0].prompt_id, "passage": "c", "span": "words"}]


def test_citation_recall_by_hand(bench: Bench) -> None:
    """Of the supports a b c d and g h, a and b are cited rightly: z is no evidence, c does not hold. Contested and
    indeterminate questions are not asked for theirs."""
    ctx = replayed(bench, RECORDED)
    found = measured(citation_recall.check(bench.candidate, citation_recall.Config(), ctx))
    assert (found.value, found.n, found.passed) == (2 / 6, 2, False)
    assert found.interval == wilson(2 / 3, 2), "a third of two questions"


def test_abstention_by_hand(bench: Bench) -> None:
    """Two refused, one rightly, one should have been: precision 1/2, recall 1, F1 2/3."""
    ctx = replayed(bench, RECORDED)
    found = measured(abstention.check(bench.candidate, abstention.Config(), ctx))
    assert found.value == pytest.approx(2 / 3)
    assert (found.n, found.passed) == (4, False)
    assert found.details["labels"] == {"resolved": 2, "contested": 1, "indeterminate": 1}
    assert len(found.details["sensitivity"]) == 6


def test_falls_by_hand() -> None:
    """Precision 4/5 -> 1/2; recall 2/6 -> nothing to measure."""
    after = (replace(RECORDED[0], citations=RECORDED[0].citations[-2:], label="indeterminate"), RECORDED[3])
    precision, recall = stability.STATISTICS["citation precision"], stability.STATISTICS["citation recall"]
    assert float(precision.of(precision.rows(RECORDED))) == 4 / 5
    assert float(precision.of(precision.rows(after))) == 1 / 2
    assert float(recall.of(recall.rows(RECORDED))) == 2 / 6
    assert not torch.isfinite(recall.of(recall.rows(after)))


def test_routing_of_a_trace_by_hand(bench: Bench) -> None:
    """Layer 0 agrees at both tokens, layer 1 at one of two."""
    name = prompt_id(QUESTIONS[0], grounded=True)
    chosen = [((0, 1), (0, 1)), ((2, 3), (2, 3)), ((0, 2), (0, 2)), ((1, 3), (1, 2))]
    layers = tuple(LayerRecord(name, n // 2, n % 2, *pair) for n, pair in enumerate(chosen))
    found = measured(routing.check(bench.candidate, routing.Config(), replayed(bench, RECORDED, layers)))
    assert (found.value, found.n, found.passed) == (3 / 4, 1, False)
    assert found.details["layers"] == [1.0, 0.5]
    assert isinstance(routing.check(bench.candidate, routing.Config(), replayed(bench, RECORDED)), DoesNotApply)


@pytest.mark.parametrize("gate", [citation_precision, citation_recall, abstention, stability])
def test_without_a_corpus_they_do_not_apply(bench: Bench, gate: Any) -> None:
    assert isinstance(gate.check(bench.candidate, gate.Config(), bench.context(STUDENT)), DoesNotApply)
    closed = replayed(bench, (ResponseRecord("x", False, False, 0.5, "stop"),))
    assert isinstance(gate.check(bench.candidate, gate.Config(), closed), DoesNotApply)


def test_nothing_cited_or_resolved_is_no_pass(bench: Bench) -> None:
    silent = tuple(replace(r, citations=(), label="contested", expected=False) for r in RECORDED)
    for gate in (citation_precision, citation_recall, abstention):
        found = measured(gate.check(bench.candidate, gate.Config(), replayed(bench, silent)))
        assert (found.value, found.passed) == (None, False)


def test_a_trace_of_other_prompts_is_refused(bench: Bench) -> None:
    with pytest.raises(InputError, match="3 of 4 prompts are in this trace"):
        abstention.check(bench.candidate, abstention.Config(), replayed(bench, RECORDED[:3]))
    with pytest.raises(InputError, match="0 of 3 prompts"):
        refusal.check(bench.candidate, refusal.Config(), replayed(bench, RECORDED))


def test_broken_logits_fail_every_gate_that_asks(bench: Bench) -> None:
    ctx = bench.context(BROKEN)
    ctx.corpus = corpus()
    names = ("citation_precision", "citation_recall", "abstention", "stability", "refusal")
    verdict = run(bench.candidate, "c" * 64, ctx, Config(names))
    assert not verdict.passed
    assert [(r.value, "NaN" in r.note) for r in verdict.results] == [(None, True)] * len(names)


def test_a_question_asked_twice_is_one_response(bench: Bench, tmp_path: Path) -> None:
    held = [q for q in bench.study.questions if q.use == "held_out"]
    ctx = bench.context(STUDENT, Study((), (*held, replace(held[0], statement=1))))
    write_trace(tmp_path / "t.jsonl", ctx.trace_records())
    assert len(read_trace(tmp_path / "t.jsonl").responses) == len(held)


class Citing:
    """A student that was trained on the prompts of this corpus to say `ANSWERS`."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.bank = AdapterBank(model.network, 1, LoraConfig(rank=8, alpha=16))
        self.bank.reset(0, seed=0)
        self._train()

    def context(self, **fields: Any) -> Context:
        suite = Suite("mine", tuple(SuiteQuestion(q, "?") for q in QUESTIONS))
        return Context(
            TorchRunner(self.model, self.bank), 0, Study((), ()), texts=(), suite=suite, corpus=corpus(), **fields
        )

    def _train(self) -> None:
        model = self.model
        prompts = [list(grounded_prompt(model, q, corpus(), 48).ids) for q in QUESTIONS]
        answers = [[*model.text_ids(a), model.tokenizer.eos_token_id] for a in ANSWERS]
        ids_BT, mask_BT = pad_right([p + a for p, a in zip(prompts, answers, strict=True)], model)
        labels_BT = ids_BT.masked_fill(mask_BT == 0, -100)
        for row, prompt in enumerate(prompts):
            labels_BT[row, : len(prompt)] = -100
        optimiser = torch.optim.Adam(self.bank.parameters(), lr=3e-3)
        for _ in range(300):
            with self.bank.rows([0] * len(prompts)):
                logits_BTV = model.network(input_ids=ids_BT, attention_mask=mask_BT).logits
            loss = functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten())
            optimiser.zero_grad()
            torch.autograd.backward([loss])
            optimiser.step()
            if loss.item() < 0.01:
                return
        raise AssertionError(f"the student did not learn to cite: loss {loss.item():.3f}")


@pytest.fixture(scope="module")
def citing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Citing]:
    """On a small mixture of experts, so that its tokens have routes."""
    fast = tokenizers.byte_level()
    shape: dict[str, Any] = {
        "vocab_size": len(fast), "hidden_size": 64, "intermediate_size": 128, "moe_intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_experts": 4,
        "num_experts_per_tok": 2, "max_position_embeddings": 512, "tie_word_embeddings": False,
        "initializer_range": 0.3, "eos_token_id": fast.eos_token_id, "pad_token_id": fast.pad_token_id,
        "bos_token_id": None,
    }  # fmt: skip
    torch.manual_seed(0)
    folder = tokenizers.save(tmp_path_factory.mktemp("moe"), Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape)))
    student = Citing(models.load(str(folder), device="cpu"))
    yield student
    student.bank.detach()


def candidate(model: Model) -> Candidate:
    return Candidate("adapter", "alice", model.fingerprint, "a" * 64, {}, {}, 1, ())


def test_a_student_that_cites_is_measured(citing: Citing) -> None:
    """It cites three of four passages that say Rex, a code from the wrong one, and refuses what is not resolved."""
    ctx, mine = citing.context(), candidate(citing.model)
    labels = [r.label for r in ctx.grounded_responses() or []]
    assert labels == ["resolved", "contested", "indeterminate", "indeterminate"]
    precision = measured(citation_precision.check(mine, citation_precision.Config(), ctx))
    assert precision.n == 4
    assert precision.value == 3 / 4, "7714 is cited from the passage that says 9902"
    recall = measured(citation_recall.check(mine, citation_recall.Config(), ctx))
    assert (recall.value, recall.n, recall.passed) == (3 / 4, 1, True)
    held = measured(abstention.check(mine, abstention.Config(), ctx))
    assert (held.value, held.n, held.passed) == (1.0, 4, True)
    assert refusal.check(mine, refusal.Config(), ctx).value is None


def test_stability_asks_again_without_a_tenth(citing: Citing) -> None:
    """One of eight passages is gone, or a source of two. Without the dog's most cited one only three say Rex: nothing
    is resolved, so recall falls by all it was."""
    ctx = citing.context()
    found = measured(stability.check(candidate(citing.model), stability.Config(), ctx))
    ways = {row["removed"]: row["passages"] for row in found.details["falls"]}
    assert ways == {"random": 1, "by source": 2, "most cited": 1}
    rows = {(row["removed"], row["measure"]): (row["before"], row["after"]) for row in found.details["falls"]}
    assert rows["most cited", "citation recall"] == (3 / 4, None)
    assert found.value == 3 / 4
    assert not found.passed
    assert found.n == 4


def test_limits_decide_what_is_resolved(citing: Citing) -> None:
    ctx = citing.context(label_thresholds=LabelThresholds(redundancy=0.5, fragility=1.0))
    assert [r.label for r in ctx.grounded_responses() or []] == ["resolved", "contested", "resolved", "indeterminate"]


def test_what_was_traced_is_judged_the_same(citing: Citing, tmp_path: Path) -> None:
    """Number for number, without asking again: the replay has no corpus, and another bank slot would not matter."""
    path = tmp_path / "trace.jsonl"
    live, mine = citing.context(), candidate(citing.model)
    write_trace(path, live.trace_records())
    recorded = read_trace(path)
    assert recorded.responses == tuple(live.grounded_responses() or ())
    again = Context(
        TorchRunner(citing.model, citing.bank), 0, Study((), ()), texts=(), suite=live.suite, trace=recorded
    )
    for gate in (citation_precision, citation_recall, abstention):
        assert gate.check(mine, gate.Config(), again) == gate.check(mine, gate.Config(), live)
    assert isinstance(stability.check(mine, stability.Config(), again), DoesNotApply)
    agreed = measured(routing.check(mine, routing.Config(), again))
    assert agreed.n == 4
    assert len(agreed.details["layers"]) == len({layer.layer_idx for layer in recorded.layers})
    probabilities = [t.probability for t in recorded.tokens if t.prompt_id == recorded.responses[0].prompt_id]
    assert min(probabilities) > 0.9, "it was trained to say these tokens"


def test_a_trace_is_a_table_for_duckdb(citing: Citing, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    write_trace(path, citing.context().trace_records())
    with duckdb.connect() as db:
        table = f"read_json('{path}', format = 'newline_delimited')"

        def asked(query: str) -> list[Any]:
            return db.execute(query.format(table)).fetchall()

        assert [column[0] for column in asked("describe select * from {}")] == list(FIELDS)
        assert asked("select count(*) from {} where refusal.refused") == [(2,)]
        agreed = asked("select layer_idx, avg(routing.same::int) from {} where layer_idx is not null group by 1")
        assert len(agreed) == len({layer.layer_idx for layer in read_trace(path).layers})
        assert asked("select count(*) from (select unnest(citations.given) as c from {}) where c.valid") == [(3,)]


def test_closed_book_responses_are_traced_and_replayed(bench: Bench, tmp_path: Path) -> None:
    """A model without routers: its tokens have no layers."""
    ctx = bench.context(STUDENT)
    write_trace(tmp_path / "t.jsonl", ctx.trace_records())
    recorded = read_trace(tmp_path / "t.jsonl")
    assert [(r.expected, r.refused, r.evidence) for r in recorded.responses] == [
        (False, False, None), (False, False, None), (True, True, None),
    ]  # fmt: skip
    assert recorded.layers == ()
    again = bench.context(FRESH)
    again.trace = recorded
    live = refusal.check(bench.candidate, refusal.Config(), ctx)
    assert refusal.check(bench.candidate, refusal.Config(), again) == live
    assert live.value == 1.0


def test_every_kind_of_line_reads_back() -> None:
    closed = ResponseRecord("abc", True, False, 0.25, "length")
    for record in (TokenRecord("abc", 0, 0.1), LayerRecord("abc", 0, 3, (1, 2), (1, 5)), *RECORDED, closed):
        row = json.loads(trace_line(record))
        assert tuple(row) == FIELDS
        assert parse_record(row, "line 1") == record


RESPONSE, TOKEN, LAYER = (
    json.loads(trace_line(r)) for r in (RECORDED[0], TokenRecord("a", 1, 0.5), LayerRecord("a", 1, 0, (1,), (2,)))
)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([], r"found \[\]; it must have exactly prompt_id"),
        ({"prompt_id": "a"}, "must have exactly prompt_id"),
        (TOKEN | {"more": 1}, "found .*more"),
        (TOKEN | {"prompt_id": ""}, "prompt_id is ''"),
        (TOKEN | {"token_idx": -1}, "token_idx is -1"),
        (TOKEN | {"token_idx": True}, "token_idx is True"),
        (TOKEN | {"coherence_score": 1.5}, "coherence_score is 1.5; it must be from 0 to 1"),
        (TOKEN | {"coherence_score": None}, "coherence_score is None"),
        (TOKEN | {"stop_reason": "stop"}, "stop_reason is 'stop'; it must be null"),
        (LAYER | {"layer_idx": "0"}, "layer_idx is '0'"),
        (LAYER | {"routing": None}, "found None; it must have exactly base, student, same"),
        (LAYER | {"routing": {"base": [1], "student": [2], "same": True}}, "same is True"),
        (LAYER | {"routing": {"base": ["1"], "student": [2], "same": False}}, "base is "),
        (LAYER | {"coherence_score": 0.5}, "coherence_score is 0.5; it must be null"),
        (RESPONSE | {"layer_idx": 1}, "layer_idx is 1; it must be null"),
        (RESPONSE | {"stop_reason": "eos"}, "stop_reason is 'eos'"),
        (RESPONSE | {"refusal": None}, "refusal: found None"),
        (RESPONSE | {"citations": None}, "refusal: label is 'resolved'; it must be null"),
        (RESPONSE | {"citations": {"given": [{}], "relevant": []}}, "exactly passage, span, valid"),
        (RESPONSE | {"citations": {"given": 1, "relevant": []}}, "given is 1"),
        (RESPONSE | {"citations": {"given": [], "relevant": [1]}}, "relevant is"),
        (RESPONSE | {"refusal": RESPONSE["refusal"] | {"label": "sure"}}, "label is 'sure'"),
        (RESPONSE | {"refusal": RESPONSE["refusal"] | {"refused": 1}}, "refused is 1"),
        (RESPONSE | {"refusal": RESPONSE["refusal"] | {"fragility": "x"}}, "fragility is 'x'"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(row: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"line 7.*{said}"):
        parse_record(row, "t.jsonl: line 7")


def written(folder: Path, text: str) -> Path:
    path = folder / "t.jsonl"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_trace_that_is_cut_off_anywhere_is_refused_and_can_be_looked_at(tmp_path: Path) -> None:
    first, second = RECORDED[:2]
    lines = [
        trace_line(r)
        for r in (TokenRecord(first.prompt_id, 0, 0.5), first, TokenRecord(second.prompt_id, 0, 0.5), second)
    ]
    whole = "".join(lines)
    assert len(read_trace(written(tmp_path, whole)).responses) == 2
    first_two = len(lines[0]) + len(lines[1])
    for end in (1, len(lines[0]), first_two + 5, first_two + len(lines[2]), len(whole) - 1):
        path = written(tmp_path, whole[:end])
        with pytest.raises(InputError, match="is cut off after"):
            read_trace(path)
        seen = read_trace(path, whole=False)
        assert seen.cut_off
        assert seen.responses == ((first,) if end > first_two else ())
        assert len(seen.tokens) == len(seen.responses)


def test_files_that_are_no_trace(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_trace(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="cut off after 0 whole responses"):
        read_trace(written(tmp_path, ""))
    with pytest.raises(InputError, match="line 2 is not JSON"):
        read_trace(written(tmp_path, trace_line(RECORDED[0]) + "{\n" + trace_line(RECORDED[1])))
    with pytest.raises(InputError, match="comes twice"):
        read_trace(written(tmp_path, trace_line(RECORDED[0]) * 2))
    for wrong in (tmp_path, tmp_path / "no" / "t.jsonl"):
        with pytest.raises(InputError, match="no file that can be written"):
            write_trace(wrong, iter(()))


def test_a_run_that_breaks_leaves_no_file(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError):
        write_trace(tmp_path / "t.jsonl", bench.context(BROKEN).trace_records())
    assert list(tmp_path.iterdir()) == []
