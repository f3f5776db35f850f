import copy

import pytest
import torch
from sample_engine import PLAIN, SampleEngine
from torch import nn

from paredown import Recipe, ScheduledManager
from paredown.framework.engine.layer_times import LayerTimes


def test_layers_of_one_form_are_measured_once():
    engine, x = SampleEngine(), torch.randn(4, 8)
    table = LayerTimes(engine)
    first = table.milliseconds(nn.Linear(8, 8), x)
    assert first == pytest.approx(PLAIN * 1e3, rel=0.5)
    assert table.milliseconds(nn.Linear(8, 8).eval(), (torch.randn(4, 8),)) == first
    assert len(engine.written) == 1


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(8, 8), (2, 8)),
        (nn.Linear(8, 8, bias=False), (4, 8)),
        (nn.Linear(8, 9), (4, 8)),
        (nn.Linear(8, 8, dtype=torch.float64), (4, 8)),
        (nn.Sequential(nn.Linear(8, 8)), (4, 8)),
    ],
    ids=["inputs", "parameters", "shapes", "types", "modules"],
)
def test_what_differs_is_measured_anew(layer, shape):
    engine = SampleEngine()
    table = LayerTimes(engine)
    table.milliseconds(nn.Linear(8, 8), torch.randn(4, 8))
    table.milliseconds(layer, torch.randn(shape))
    assert len(engine.written) == 2


def test_strides_and_quantizers_are_told_apart():
    engine, x = SampleEngine(), torch.randn(2, 4, 8, 8)
    table = LayerTimes(engine)
    for stride in (1, 2):
        table.milliseconds(nn.Conv2d(4, 4, 3, stride), x)
    for bits in (8, 4):
        model = nn.Sequential(nn.Conv2d(4, 4, 3))
        weights = {"type": "weight_quantization", "weights": {"bits": bits}}
        ScheduledManager(Recipe.load({"recipe": 1, "modifiers": {"q": weights}})).apply(model)
        table.milliseconds(model[0], x)
        table.milliseconds(copy.deepcopy(model)[0], x)
    assert len(engine.written) == 4
