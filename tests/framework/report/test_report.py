"""The report survives JSON, and its page needs nothing but itself."""

import dataclasses
import math
import re
from html.parser import HTMLParser

import pytest

from paredown.framework.errors import ParedownError
from paredown.framework.report import Curve, LayerRow, Report, Summary
from paredown.framework.report.metrics import ACCURACY, Metric

VOID = {"meta", "br", "link", "img", "line", "rect", "circle", "polyline", "path"}


def report():
    return Report(
        recipe="a <b> recipe",
        recipe_text="name: x  # </pre><script>alert(1)</script>",
        dense=Summary(100, 100, 400, 400, 1000, (1.0, 1.1, 1.2), {"accuracy": (0.98, 0.97)}),
        compressed=Summary(100, 10, 40, 400, 1000, (0.9, 1.0, 1.1), {"accuracy": (0.97, 0.97)}),
        layers=(LayerRow("conv", "Conv2d", (100, 100), (100, 10), (32.0, 8.0), (1000, 1000)),),
        windows=({"name": "prune", "type": "magnitude_pruning", "start": 0, "end": 8, "steps_per_epoch": 4},),
        events=({"step": 0, "epoch": 0.0, "modifier": "prune", "event": "start"},),
        history=(Curve("sparsity", ((0.0, 0.1), (2.0, 0.9)), "prune"), Curve("accuracy", ((1.0, 0.9),))),
        notes=("one & two",),
        versions={"torch": "2.13"},
        metrics=(ACCURACY,),
    )


def test_json_round_trip(tmp_path):
    report().save(tmp_path / "report.json")
    assert Report.from_json((tmp_path / "report.json").read_text()) == report()


def test_what_is_not_finite_is_null_in_json_and_comes_back():
    diverged = dataclasses.replace(
        report(),
        compressed=Summary(1, 1, values={"accuracy": (math.nan, 0.5)}),
        history=(Curve("loss", ((0.0, 1.0), (1.0, math.nan))), Curve("total", ((0.0, math.inf),))),
    )
    text = diverged.to_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    again = Report.from_json(text)
    assert math.isnan(again.compressed.values["accuracy"][0])
    assert again.compressed.values["accuracy"][1] == 0.5
    assert again.history[0].points[0] == (0.0, 1.0)
    assert math.isnan(again.history[0].points[1][1])
    for one in (diverged, again):
        assert "accuracy (2 seeds)" in str(one)
        assert "nan" not in one.to_html().partition("<svg")[2]


def test_the_table_tells_dense_compressed_and_ratio():
    text = str(report())
    for told in ("non-zero", "x0.100", "bytes on disk", "0.9750 ± 0.0071", "2 seeds", "-0.50 points", "one & two"):
        assert told in text


def test_the_page_is_well_formed_and_self_contained(tmp_path):
    report().save(tmp_path / "new" / "report.html")
    page = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(?:src|href)=|url\(|@import|https?://(?!www\.w3\.org)", page)
    _Balanced().feed(page)
    for told in ("Timeline", "Sparsity over time", "Accuracy over time", "Non-zero weights by layer", "a &lt;b&gt;"):
        assert told in page


def test_a_report_with_little_in_it_has_a_page_too():
    _Balanced().feed(Report("empty", Summary(0, 0), Summary(0, 0)).to_html())


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ParedownError, match=r"\.html or \.json"):
        report().save(tmp_path / "report.pdf")


class _Balanced(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def test_metrics_have_their_own_names_units_and_directions():
    told = dataclasses.replace(
        report(),
        metrics=(Metric("perplexity", "min"), Metric("f1")),
        dense=Summary(100, 100, values={"perplexity": (44.9,), "f1": (0.81,)}),
        compressed=Summary(100, 10, values={"perplexity": (58.8,), "f1": (0.79,)}),
    )
    lines = [" ".join(line.split()) for line in str(told).splitlines()]
    assert "perplexity (one seed) 44.9 58.8 +13.9, worse" in lines
    assert "f1 (one seed) 0.8100 0.7900 -0.02" in lines
    assert "perplexity 44.9 -> 58.8 (worse)" in told.sentence
    assert "accuracy" not in str(told)
    assert Report.from_json(told.to_json()) == told


def test_widths_are_reported_without_a_dense_model_beside():
    layers = (LayerRow("conv", "Conv2d", (100, 100), (100, 100), (32.0, 4.0)),)
    told = Report("r", Summary(100, 100), Summary(100, 100), layers)
    assert [row[0] for row in told.rows()][-2:] == ["bits of a parameter", "bytes of parameters"]
    assert told.rows()[-1][1:] == ("400", "50", "x0.125")
    assert told.sentence == "8x smaller"
