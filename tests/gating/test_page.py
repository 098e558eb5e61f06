"""The page: well-formed, self-contained, escaped, and true to the verdict."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from stillhouse import gating
from stillhouse.gating import Calibration, CalibrationTrial
from stillhouse.gating.measure import Measure
from stillhouse.gating.page import AnswerComparison, report
from stillhouse.gating.pictures import figure
from stillhouse.gating.thresholds import GateMeasurement
from stillhouse.records import (
    Candidate,
    GateResult,
    Question,
    Statement,
    Study,
    Verdict,
    canonical,
    digest,
    from_mapping,
)
from stillhouse.report import svg
from tests.gating.conftest import FRESH, MEMORY, STUDENT, Bench

VOID = {"meta", "br", "link", "img", "input", "hr"}
NASTY = "<script>alert(\"x\")</script> & $title ${lead} 'quoted'"
LOUD = Measure("stillhouse.gate.<b>loud", "how <i>loud</i> it is", "fraction", at_least=True)


class Page(HTMLParser):
    """Tags balanced or `AssertionError`; keeps the text, and every attribute with its element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def classes(self, name: str) -> list[str]:
        return [str(a["class"]) for _, a in self.seen if name in str(a.get("class", "")).split()]


def _candidate(config: dict[str, str] | None = None) -> Candidate:
    return Candidate("adapter", NASTY, "b" * 64, "a" * 64, {}, dict(config or {}), 3, (), ("d" * 64,))


def _verdict(*results: GateResult) -> Verdict:
    return Verdict("c" * 64, all(r.passed for r in results), results, {"gates": {}})


def test_everything_from_outside_is_escaped() -> None:
    memory = f"{NASTY}."
    study = Study((Statement(0, 0, len(memory.encode()), memory),), (Question(NASTY, NASTY, 0),))
    row = {"question": NASTY, "expected": NASTY, "answer": NASTY, "right": False, "statement": 0}
    result = LOUD.result(0.5, 0.9, 2, (0.1, 0.95), NASTY, {"questions": [row]})
    sample = AnswerComparison(NASTY, NASTY, NASTY, NASTY, "other")
    text = report(_verdict(result), _candidate({NASTY: NASTY}), study, memory, [sample], [2.0, 1.0], {NASTY: NASTY})
    page = Page(text)
    assert "<script" not in text
    assert not {"script", "link", "img", "iframe", "object", "b><b"} & {tag for tag, _ in page.seen}
    assert not [name for _, attributes in page.seen for name in attributes if name.startswith("on")]
    assert page.text.count(NASTY) >= 10
    assert "<b>loud" in page.text


def test_the_page_needs_nothing_from_elsewhere(bench: Bench) -> None:
    text = report(_verdict(LOUD.result(1.0, 0.9, 2)), _candidate(), bench.study, MEMORY)
    page = Page(text)
    assert "://" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert not [a for _, a in page.seen if "src" in a or "href" in a]


def test_a_real_verdict_from_its_stored_form(bench: Bench) -> None:
    ctx = bench.context(STUDENT, others=(FRESH,))
    made = gating.run(bench.candidate, "c" * 64, ctx)
    verdict = from_mapping(Verdict, json.loads(canonical(made)))
    samples = [AnswerComparison("What is my dog called?", "?", "Rex", "Rex", "Rex")]
    page = Page(report(verdict, bench.candidate, bench.study, MEMORY, samples, [2.0, 1.0, 0.5], {"user": "alice"}))
    assert len(page.classes("gate")) == len(verdict.results)
    assert len(page.classes("mark")) == len(verdict.results)
    assert len(page.classes("scale")) == len(verdict.results)
    assert len(page.classes("hit")) == len(ctx.texts)
    assert len(page.classes("dot")) >= 1
    assert "Does not apply" in page.text
    assert [c.split()[1] for c in page.classes("s")] == ["recalled", "recalled", "instruction", "recalled"]
    assert [c.split()[2:] for c in page.classes("s")] == [["uncovered"], ["uncovered"], [], ["uncovered"]]
    assert len(page.classes("column")) == 3 * 2, "drift, boundary and adjacency, each in two layers"
    for result in verdict.results:
        assert result.gate in page.text


def test_coverage_states_and_bytes() -> None:
    """Spans are bytes: text before them outside ASCII must not shift them. Overlaps are cut, not repeated."""
    memory = "é One. Two. Three. Four. Do it."
    spans = [(m, memory.encode().index(m.encode())) for m in ("One.", "Two.", "Three.", "Four.", "Do it.")]
    statements = tuple(Statement(i, a, a + len(m.encode()), m, i == 4) for i, (m, a) in enumerate(spans))

    def row(statement: int | None, right: bool) -> dict[str, object]:
        return {"question": "q?", "expected": "e", "answer": "a", "right": right, "statement": statement}

    rows = [row(0, True), row(1, True), row(1, False), row(2, False), row(None, True)]
    result = LOUD.result(0.5, 0.9, 5, details={"questions": rows})
    waiting = Question("Never asked?", "e", 3)
    page = Page(report(_verdict(result), _candidate(), Study(statements, (waiting,)), memory))
    assert [c.split()[1] for c in page.classes("s")] == ["recalled", "part", "missed", "none", "instruction"]
    for text, _ in spans:
        assert text in page.text
    assert "Never asked?" in page.text
    overlapping = Study((statements[0], Statement(1, statements[0].start, statements[1].end, "One. Two.")), ())
    page = Page(report(_verdict(result), _candidate(), overlapping, memory))
    assert page.text.count("One.") == 1


def test_the_first_sentence_says_what_failed() -> None:
    bad = Measure("stillhouse.gate.low", "", "nats per token", at_least=False).result(0.3, 0.1, 4)
    broken = Measure("stillhouse.gate.gone", "", "fraction", at_least=True).broken(0.9, "the logits are NaN")
    good = Measure("stillhouse.gate.fine", "", "fraction", at_least=True).result(1.0, 0.9, 4)
    page = Page(report(_verdict(bad, broken, good), _candidate(), Study((), ()), ""))
    assert "Rejected." in page.text
    assert "2 of 3 gates fail: gone could not be measured; low 0.300 nats per token (at most 0.100)." in page.text
    assert "the logits are NaN" in page.text
    page = Page(report(_verdict(good), _candidate(), Study((), ()), ""))
    assert "Approved." in page.text
    assert "The one gate passes: fine 100 %." in page.text


def test_what_to_change_comes_first_and_once() -> None:
    drift, entropy, recall = (
        Measure(f"stillhouse.gate.{name}", "", "fraction", at_least=False, remedy=remedy).result(0.3, 0.1, 4)
        for name, remedy in (("drift", "Hold it."), ("entropy", "Hold it."), ("recall", "Train <longer>."))
    )
    page = Page(report(_verdict(drift, entropy, recall), _candidate(), Study((), ()), ""))
    assert page.text.index("What to change") < page.text.index("Gates")
    assert "drift, entropy Hold it." in page.text
    assert page.text.count("Hold it.") == 1
    assert "Train <longer>." in page.text
    fine = report(_verdict(LOUD.result(1.0, 0.9, 2)), _candidate(), Study((), ()), "")
    assert "What to change" not in fine


def test_an_approval_says_what_was_close() -> None:
    low = Measure("stillhouse.gate.low", "", "cosine", at_least=False)
    far, near = (
        low.result(0.01, 0.1, 4),
        Measure("stillhouse.gate.near", "", "cosine", at_least=False).result(0.09, 0.1, 4),
    )
    exact = Measure("stillhouse.gate.counted", "", "fraction", at_least=False, exact=True).result(0.0, 0.0, 4)
    page = Page(report(_verdict(far, near, exact), _candidate(), Study((), ()), ""))
    assert "All 3 gates pass. Closest to the limit: near 0.090 cosine (at most 0.100), then low 0.010" in page.text


def test_a_value_that_fails_never_reads_as_its_threshold() -> None:
    result = Measure("stillhouse.gate.low", "", "fraction", at_least=False).result(0.0204, 0.02, 4)
    page = Page(report(_verdict(result), _candidate(), Study((), ()), ""))
    assert "low 2.04 % (at most 2 %)" in page.text


def test_what_was_tried_before() -> None:
    tries = [
        {"remedy": "", "about": "as asked for", "changes": {}, "version": 1, "approved": False, "failed": ["drift"]},
        {"remedy": "anchors", "about": NASTY, "changes": {"train.anchor_weight": [24.0, 48.0]}, "version": 0,
         "approved": True, "failed": []},
    ]  # fmt: skip
    result = LOUD.result(1.0, 0.9, 2)
    page = Page(report(_verdict(result), _candidate(), Study((), ()), "", tries=tries))
    assert "As asked for v1refused by drift" in page.text
    assert f"Anchors this oneapproved{NASTY} · train.anchor_weight 24.0 → 48.0" in page.text
    assert "How it came about" not in report(_verdict(result), _candidate(), Study((), ()), "")


def test_a_calibration_shows_every_trial_by_kind() -> None:
    def trial(sabotage: str, worst: float) -> CalibrationTrial:
        return CalibrationTrial("0", sabotage, {"<b>loud": GateMeasurement(worst, worst, True, 10, 0.9)})

    trials = (trial("", 0.9), trial("", 0.95), trial("noise", 0.1), trial("noise", 0.99))
    found = Calibration("b" * 64, "tiny", {"<b>loud": 0.85}, trials)
    page = Page(report(_verdict(LOUD.result(1.0, 0.85, 2)), _candidate(), Study((), ()), "", calibration=found))
    assert "Good●●2 of 2 approved" in page.text
    assert "Noise●○1 of 2 refused by <b>loud" in page.text
    assert len(page.classes("roc")) == 1


def test_lineage_leads_from_the_memory_to_the_verdict() -> None:
    verdict = _verdict(LOUD.result(1.0, 0.9, 2))
    page = Page(report(verdict, _candidate(), Study((), ()), MEMORY))
    names = [digest(MEMORY.encode()), "d" * 64, "c" * 64, digest(verdict)]
    places = [page.text.index(name[:12]) for name in names]
    assert places == sorted(places)


def test_signed_bars_stand_on_zero() -> None:
    drawing = svg.signed([0.5, None, -0.25], ["a", "b", "c"], "x")
    assert drawing.count('class="under"') == 2
    assert drawing.count('class="column"') == 3
    assert "nan" not in svg.signed([0.0, 0.0], ["a", "b"], "x")
    assert svg.signed([], [], "x").startswith("<svg")


def test_samples_mark_what_was_expected_and_say_what_is_missing() -> None:
    samples = [
        AnswerComparison("Dog?", "No idea.", "Rex.", "Max", "Rex"),
        AnswerComparison("Cat?", "", "I don't know.", "Not sure.", "I don't know."),
    ]
    page = Page(report(_verdict(), _candidate(), Study((), ()), "", samples))
    assert len(page.classes("yes")) == 3
    assert page.classes("dim") == ["dim"] * 3
    assert page.text.count("expected: Rex") == 1
    assert "(nothing)" in page.text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "fraction", "none"),
        (0.975, "fraction", "97.5 %"),
        (1.0, "fraction", "100 %"),
        (-0.0001, "fraction", "0 %"),
        (-0.003, "fraction", "−0.3 %"),
        (124.0, "fraction", "12400 %"),
        (0.0421, "nats per token", "0.042"),
        (-0.00001, "nats per token", "0.000"),
        (14.25, "nats per token", "14.2"),
    ],
)
def test_figure(value: float | None, unit: str, text: str) -> None:
    assert figure(value, unit) == text


def test_curve_leaves_out_what_is_not_finite_and_needs_two_points() -> None:
    assert svg.curve([], "x")[0] == svg.curve([1.0], "x")[0] == svg.curve([1.0, float("nan")], "x")[0] == ""
    drawing, logarithmic = svg.curve([100.0, float("nan"), 1.0, float("inf")], "x")
    assert logarithmic
    assert "nan" not in drawing
    assert "inf" not in drawing
    assert not svg.curve([1.0, 0.0], "x")[1]
    assert svg.curve([float(i) for i in range(100_000)], "x")[0].count(",") <= 2 * svg.POINTS + 2


@pytest.mark.parametrize("value", [None, -0.5, 0.0, 0.02, 50.0])
def test_scales_hold_every_value(value: float | None) -> None:
    low, high = svg.domain(value, 0.02, (-0.1, 60.0), proportion=False)
    assert low <= -0.1
    assert high >= 60
    measure = Measure("stillhouse.gate.x", "", "cosine", at_least=False)
    result = measure.result(value, 0.02, 3, (-0.1, 60.0))
    drawing = svg.scale(result, (low, high), "x", [0.1], [99.0])
    places = [float(part.split("%")[0]) for part in drawing.split('cx="')[1:]]
    assert all(0 <= place <= 100 for place in places)
    assert len(places) == (value is not None)


def test_a_threshold_of_zero_has_a_scale() -> None:
    low, high = svg.domain(0.0, 0.0, None, proportion=False)
    assert low < high
    assert "nan" not in svg.bars([0.0, None], 0.0, ["a", "b"], "x")


def test_the_template_ships_with_the_package() -> None:
    assert files("stillhouse.report").joinpath("page.html").is_file()
