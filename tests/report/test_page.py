"""Pages: everything is escaped, tags are closed, and the page is there before what says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stillhouse.errors import StoreError
from stillhouse.report import page
from tests.distillation.test_run import Page

EVIL = '<script>alert("&")</script>'


def test_texts_are_escaped_and_tags_are_closed() -> None:
    sections = [
        page.facts({EVIL: EVIL}),
        page.section(EVIL, EVIL, page.table([EVIL, ">" + EVIL], [[page.cell(EVIL, "n", EVIL), page.cell("")]], "heat")),
        page.settings({EVIL: [EVIL]}, {EVIL: EVIL}),
        page.loss_figure([3.0, 2.0, 1.0]),
        page.table([""], [[page.spark([2.0, 1.0], EVIL), f"<td>{page.moved(2.0, 1.0, 3.0, EVIL)}</td>"]]),
        page.reliability([], [{"n": 3, "confidence": 0.5, "accuracy": 0.75}]),
    ]
    html = page.page(EVIL, EVIL, "<b>lead</b>", sections)
    parsed = Page(html)
    assert not parsed.outside and not parsed.open
    assert "<script" not in html and html.count("&lt;script&gt;") > 10
    assert "<b>lead</b>" in html, "what is called html is left as it is"


def test_a_loss_that_cannot_be_drawn_is_left_out() -> None:
    assert page.loss_figure([1.0]) == page.loss_figure([]) == page.loss_figure([float("nan"), 1.0]) == ""
    assert "logarithmic height" in page.loss_figure([100.0, 1.0])
    assert "linear height" in page.loss_figure([2.0, 1.0])


@pytest.mark.parametrize(
    ("number", "text"), [(7_613_184, "7.61 M"), (8_190_735_360, "8.19 G"), (999, "0.999 k"), (128_000, "128 k")]
)
def test_numbers_of_parameters_are_short(number: int, text: str) -> None:
    assert page.millions(number) == text


def test_a_page_is_written_before_what_it_shows(tmp_path: Path) -> None:
    page.write(tmp_path, "report", "<p>ü</p>", {"b": 1, "a": "ü"})
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "<p>ü</p>"
    assert json.loads((tmp_path / "report.json").read_bytes()) == {"a": "ü", "b": 1}
    with pytest.raises(ValueError, match="JSON compliant"):
        page.write(tmp_path, "other", "", float("nan"))
    with pytest.raises(StoreError, match="cannot write"):
        page.write(tmp_path / "missing", "report", "", {})
    assert not (tmp_path / "other.json").exists()
