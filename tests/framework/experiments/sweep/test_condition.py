"""The conditions of `--pick`."""

import contextlib
import re
from pathlib import Path

import pytest

from paredown.framework.errors import ArgumentError
from paredown.framework.experiments.sweep.condition import Condition
from paredown.framework.experiments.sweep.row import Row

ROW = Row(
    Path("job"),
    state="finished",
    compressed={"accuracy": 0.91, "bytes": 1000, "sparsity": 0.9, "nonzeros": 0},
    dense={"accuracy": 0.915, "bytes": 4000, "sparsity": 0.0},
)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("accuracy >= dense - 0.01", True),
        ("accuracy > dense", False),
        ("dense - accuracy <= 0.006", True),
        ("bytes <= 0.25 * dense", True),
        ("bytes <= 0.2 * dense and accuracy > 0", False),
        ("accuracy > 0.9 and bytes < 2e3 and sparsity == 0.9", True),
        ("0.9 <= accuracy < 0.91", False),
        ("-accuracy < +0.1", True),
        ("(accuracy + 1) / 2 != 3", True),
        ("latency < 5", False),  # not measured
        ("bytes / nonzeros < 1", False),
        ("1e308 * 10 > bytes", True),
        ("\n accuracy > 0 ", True),
        ("macs <= dense", False),
        ("1 < 2", True),
    ],
)
def test_what_holds(text, holds):
    assert Condition.parse(text).holds(ROW) is holds


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("acuracy > 0.9", "did you mean 'accuracy'"),
        ("acuracy > 0.9", "accuracy, bytes, macs, latency, nonzeros, sparsity, dense"),
        ("size > 0.9", "unknown name 'size'"),
        ("accuracy > 0.9 or bytes < 3", "joined by `and`"),
        ("not accuracy > 0.9", "no comparison"),
        ("accuracy", "no comparison"),
        ("dense > 3", "dense stands beside one quantity, found none"),
        ("accuracy > dense * bytes", "found accuracy and bytes"),
        ("accuracy in (1, 2)", "compared by"),
        ("accuracy > __import__('os').getpid()", "no place"),
        ("accuracy > (1).real", "no place"),
        ("accuracy > 'a'", "no place"),
        ("accuracy > True", "no place"),
        ("accuracy > 9 ** 9 ** 9", "no place"),
        ("accuracy > [0][0]", "no place"),
        ("(lambda: 1)() > accuracy", "no place"),
        ("accuracy >", "is no condition"),
        ("", "is no condition"),
        ("accuracy > " + "(" * 300 + "1" + ")" * 300, "characters"),
        ("accuracy > " + "(" * 220 + "1" + ")" * 220, "is no condition"),
        ("accuracy > " + "-" * 400 + "1", ""),
        ("accuracy > 0\0", ""),
    ],
)
def test_what_is_refused(text, told):
    if told:
        with pytest.raises(ArgumentError, match=re.escape(told)):
            Condition.parse(text)
    else:  # either is right, as long as nothing else is raised
        with contextlib.suppress(ArgumentError):
            Condition.parse(text).holds(ROW)
