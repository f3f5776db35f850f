import pytest

from paredown.framework.experiments.recommend.costs import CostTable
from paredown.framework.experiments.recommend.mixtures import Mixture, known_choices


def test_estimates_are_products_times_what_products_were_off_by():
    known = known_choices(True)
    (a, b), c, q = known["shape"][:2], known["zeros"][0], known["grid"][0]
    table = CostTable({"bytes": 1000.0})
    for choice, ratio in ((a, 0.5), (b, 0.4), (c, 0.8), (q, 0.25)):
        table.add(Mixture((choice,)), {"bytes": ratio})
    assert table.ratios(Mixture((a, q)))["bytes"] == pytest.approx(0.125)
    assert table.absolute(Mixture((a, c, q)))["bytes"] == pytest.approx(100)
    table.add(Mixture((a, q)), {"bytes": 0.15})
    assert table.ratios(Mixture((a, q)))["bytes"] == 0.15, "what was measured is taken"
    assert table.ratios(Mixture((b, q)))["bytes"] == pytest.approx(0.1 * 0.15 / 0.125), "the same stages"
    assert table.ratios(Mixture((a, c)))["bytes"] == pytest.approx(0.4), "other stages"
    assert table.error()["bytes"] == pytest.approx(1 - 0.125 / 0.15)
    assert table.ratios(Mixture()) == {"bytes": 1.0}
