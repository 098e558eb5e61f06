"""Which remedy is tried, when, with what settings; and that a real run keeps every try and finds it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from stillhouse import kinds
from stillhouse.capture import memory
from stillhouse.consolidation import Consolidation, Settings, consolidate, consolidate_all
from stillhouse.consolidation.remedies import REMEDIES, asks_for, changes, follow
from stillhouse.consolidation.result import Try
from stillhouse.models import Model
from stillhouse.records import GateResult, Study, Verdict, Version
from stillhouse.store import Store
from stillhouse.train import adapter

ORDER = ["supervision", "rank", "anchors", "constraints", "routing"]
SMALL = Settings(
    memory.Config(wordings=2, rounds=0, unknown_per_statement=1, decoys=2, anchor_texts=0, anchor_prompts=1,
                  max_answer_tokens=4),
    adapter.Config(rank=2, steps=1, warmup=0, facts=2, unknowns=1, anchors=0, anchor_rows=0),
)  # fmt: skip


def result(failed: Mapping[str, Sequence[str]], number: int = 1, user: str = "alice") -> Consolidation:
    """What a pipeline returns; `failed`: gates that refuse, each with the remedies it names."""
    gates = tuple(GateResult(n, 0.1, 0.9, True, False, 5, details={"tries": list(r)}) for n, r in failed.items())
    verdict = Verdict("c" * 64, not gates, gates, {})
    version = Version(user, number, "c" * 64, "v" * 64, "b" * 64, "tiny", not gates, "", ())
    return Consolidation(user, version, Path(), verdict, Study((), ()), (), 0, 0, {})


class Pipeline:
    """Candidates that come out as told, and what was asked of it."""

    def __init__(self, *outcomes: Mapping[str, Sequence[str]]) -> None:
        self.outcomes, self.asked = list(outcomes), list[tuple[str, Settings, dict[str, tuple[Try, ...]]]]()

    def __call__(self, remedy: str, settings: Settings, tries: Mapping[str, tuple[Try, ...]]) -> list[Consolidation]:
        self.asked.append((remedy, settings, dict(tries)))
        return [result(self.outcomes.pop(0), len(self.asked) + 1, user) for user in tries]


ALL = {
    "paraphrase": ("supervision", "rank"),
    "drift": ("anchors", "constraints"),
    "routing": ("routing",),
}


def test_the_order_is_fixed_and_every_try_is_listed() -> None:
    made = Pipeline(*[ALL] * 5)
    (found,) = follow([result(ALL)], Settings(), made)
    assert [name for name, _, _ in made.asked] == ORDER == [r.name for r in REMEDIES]
    assert [t.remedy for t in found.tries] == ["", *ORDER]
    assert [t.version for t in found.tries] == [1, 2, 3, 4, 5, 6]
    assert [len(tries["alice"]) for _, _, tries in made.asked] == [1, 2, 3, 4, 5], "each try knows the ones before it"
    assert set(changes(Settings(), made.asked[-1][1])) >= {
        "capture.wordings", "train.rank", "train.alpha", "train.curvature_weight", "train.steps", "train.experts"
    }, "changes add up"  # fmt: skip


def test_it_stops_at_the_first_approved() -> None:
    made = Pipeline(ALL, {})
    (found,) = follow([result(ALL)], Settings(), made)
    assert [name for name, _, _ in made.asked] == ["supervision", "rank"]
    assert found.approved
    assert [t.approved for t in found.tries] == [False, False, True]
    approved = result({})
    assert follow([approved], Settings(), made)[0].tries[0].approved
    assert len(made.asked) == 2


def test_only_what_the_verdict_asks_for_is_tried() -> None:
    drift = {"drift": ALL["drift"]}
    made = Pipeline(drift, drift)
    follow([result(drift)], Settings(), made)
    assert [name for name, _, _ in made.asked] == ["anchors", "constraints"]
    leak = Pipeline()
    (found,) = follow([result({"swap": ()})], Settings(), leak)
    assert not leak.asked
    assert len(found.tries) == 1


def test_a_change_that_made_it_worse_is_dropped_and_the_best_is_returned() -> None:
    paraphrase = {"paraphrase": ALL["paraphrase"]}
    made = Pipeline(ALL, paraphrase)
    (found,) = follow([result(paraphrase)], Settings(), made)
    assert [name for name, _, _ in made.asked] == ["supervision", "rank"]
    assert changes(Settings(), made.asked[1][1]) == {"train.rank": [16, 32], "train.alpha": [32.0, 64.0]}
    assert found.version.number == 3
    assert [len(t.failed) for t in found.tries] == [1, 3, 1]


def test_what_changes_nothing_is_not_tried() -> None:
    settings = replace(Settings(), train=adapter.Config(experts=False))
    made = Pipeline()
    follow([result({"routing": ALL["routing"]})], settings, made)
    assert not made.asked


def test_more_to_learn_gets_more_steps() -> None:
    """Three more wordings in as many steps: each was seen less often, and "What is my dog called?" was not learned."""
    settings = replace(Settings(), train=adapter.Config(steps=30))
    made = Pipeline({})
    follow([result({"paraphrase": ("supervision",)})], settings, made)
    ((_, changed, _),) = made.asked
    assert changed.capture.wordings == settings.capture.wordings + 3
    assert changed.train.steps == 60


def test_users_with_the_same_trouble_go_together() -> None:
    made = Pipeline({}, {}, {})
    first = [result(ALL, user="alice"), result({}, user="bob"), result(ALL, user="carol")]
    found = follow(first, Settings(), made)
    assert [sorted(tries) for _, _, tries in made.asked] == [["alice", "carol"]]
    assert [r.user for r in found] == ["alice", "bob", "carol"]


@pytest.mark.parametrize("name", kinds.names("gate"))
def test_the_verdict_of_every_gate_says_what_to_change(name: str) -> None:
    assert kinds.load("gate", name).MEASURE.remedy


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("recall", {"rank"}),
        ("paraphrase", {"supervision", "rank"}),
        ("unknown", {"supervision"}),
        ("coverage", {"supervision"}),
        ("drift", {"anchors", "constraints"}),
        ("regression", {"anchors", "constraints"}),
        ("ece", {"supervision", "constraints"}),
        ("routing", {"anchors", "routing"}),
        ("swap", set()),
        ("overlap", set()),
    ],
)
def test_what_the_remedies_of_real_gates_ask_for(name: str, expected: set[str]) -> None:
    refused = result({name: kinds.load("gate", name).MEASURE.tries})
    assert {r.name for r in REMEDIES if asks_for(r, refused)} == expected


def test_remedies_keep_settings_allowed() -> None:
    extreme = Settings(memory.Config(draws=255), adapter.Config(steps=1, warmup=0, curvature_weight=0.0))
    for remedy in REMEDIES:
        remedy.change(extreme)
    assert REMEDIES[2].change(extreme).train.curvature_weight > 0


def test_a_real_run_keeps_every_try_and_finds_it_again(random_model: Callable[..., Model], tmp_path: Path) -> None:
    model, text = random_model("llama"), "My dog is called Zorvik."
    found = consolidate("alice", text, model=model, home=tmp_path, settings=SMALL, diagnose=True)
    assert not found.approved
    assert 2 <= len(found.tries) <= 6
    store = Store(tmp_path)
    assert {v.number for v in store.versions("alice")} == {t.version for t in found.tries}
    assert [t["version"] for t in found.as_dict()["tries"]] == [t.version for t in found.tries]
    assert "then v2" in found.summary()
    last = store.version_dir("alice", found.tries[-1].version)
    assert "How it came about" in (last / "gate_report.html").read_text()
    kept = json.loads((last / "gate_report.json").read_text())["tries"]
    assert [t["remedy"] for t in kept] == [t.remedy for t in found.tries]
    again = consolidate("alice", text, model=model, home=tmp_path, settings=SMALL, diagnose=True)
    assert again.tries == found.tries
    assert len(store.versions("alice")) == len({t.version for t in found.tries})
    alone = consolidate_all({"alice": text}, model=model, home=tmp_path, settings=SMALL)[0]
    assert (alone.tries, alone.version.number) == ((), 1)
