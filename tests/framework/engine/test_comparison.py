"""Whether a file computes what was promised: noise of the right size passes, faults do not."""

import math

import pytest
import torch

from paredown.framework.engine.comparison import Agreements, LayerComparison, decibels, parting, table
from paredown.framework.errors import ExportError

SAMPLES = 64


def outputs(seed=0, noise=0.0, of=10):
    generator = torch.Generator().manual_seed(seed)
    return noise * torch.randn(SAMPLES, of, generator=generator)


def agreement(engine, dense=None, simulated=None):
    dense = outputs(0, 1.0) if dense is None else dense
    simulated = dense + outputs(1, 0.02) if simulated is None else simulated
    gathered = Agreements()
    for start in range(0, SAMPLES, 16):
        gathered.add(*([each[start : start + 16]] for each in (dense, simulated, engine)), "m.onnx")
    return gathered.found()[0]


def test_the_figures_are_those_of_the_tensors():
    dense, simulated, engine = outputs(0, 1.0), outputs(0, 1.0) + outputs(1, 0.1), outputs(0, 1.0) + outputs(2, 0.2)
    found = agreement(engine, dense, simulated)
    assert found.simulated == pytest.approx((simulated - dense).double().square().mean().sqrt().item())
    assert found.engine == pytest.approx((engine - dense).double().square().mean().sqrt().item())
    assert found.difference == pytest.approx((engine - simulated).abs().max().item())
    assert found.engine_decibels == pytest.approx(-20 * math.log10(found.engine / found.magnitude))


@pytest.mark.parametrize("seed", range(2, 12))
def test_another_rounding_of_the_same_size_is_no_fault(seed):
    assert agreement(outputs(0, 1.0) + outputs(seed, 0.02)).fault() is None


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda x: x * 1.05,  # a scale
        lambda x: x + 0.05,  # a bias
        lambda x: x.flip(1),  # channels
        lambda x: x.relu(),  # an activation too many
        lambda x: x + outputs(5, 0.04),  # twice the noise
        lambda x: torch.where(torch.arange(SAMPLES)[:, None] == 3, 2 * x, x),  # one sample alone
        lambda x: torch.where(torch.arange(10) == 3, 1.5 * x, x),  # one output channel alone
        lambda x: x * math.nan,
    ],
)
def test_a_fault_is_found(spoilt):
    fault = agreement(spoilt(outputs(0, 1.0) + outputs(1, 0.02))).fault()
    assert fault is not None
    assert "differ" in fault


def test_a_model_that_is_not_quantized_may_differ_by_floating_point_alone():
    dense = outputs(0, 1.0)
    assert agreement(dense + outputs(3, 1e-5), dense, dense).fault() is None
    assert agreement(dense + outputs(3, 1e-2), dense, dense).fault() is not None


def test_decisions_count_where_they_are_clear():
    dense = torch.zeros(SAMPLES, 10)
    dense[:, 0] = 1.0
    simulated = dense + outputs(1, 0.05)
    swapped = simulated.clone()
    swapped[:4, :2] = simulated[:4, :2].flip(1)
    assert agreement(swapped, dense, simulated).argmax == pytest.approx(60 / 64)
    noisy = outputs(0, 0.01)
    assert agreement(noisy + outputs(2, 0.02), noisy, noisy + outputs(1, 0.02)).argmax == 1.0


def test_batches_of_different_sizes_and_outputs_without_a_batch():
    gathered = Agreements()
    for size in (3, 5):
        states, loss = torch.randn(2, size, 4), torch.randn(())
        gathered.add([states, loss], [states + 0.1, loss], [states - 0.1, loss], "m.onnx")
    found = gathered.found()
    assert found[0].samples == 4
    assert found[0].engine == pytest.approx(0.1, rel=1e-5)
    assert [each.fault() for each in found] == [None, None]


def test_a_tolerance_replaces_the_rest():
    found = agreement(outputs(0, 1.0) + outputs(1, 0.02) + 0.5)
    assert found.fault(tolerance=0.6) is None
    assert "more than the tolerance 0.1" in str(found.fault(tolerance=0.1))


def test_other_shapes_are_an_error():
    with pytest.raises(ExportError, match=r"m.onnx: .*\[\[2, 3\]\], these \[\[3, 2\]\]"):
        Agreements().add([torch.ones(2, 3)], [torch.ones(2, 3)], [torch.ones(3, 2)], "m.onnx")


def test_the_table_names_the_first_layer_that_parts():
    rows = [
        LayerComparison("a", "Conv2d", "integer", 40.0, 39.5),
        LayerComparison("b", "Conv2d", "", None, None),
        LayerComparison("c", "Linear", "float", 40.0, 20.0),
        LayerComparison("d", "Linear", "integer", 40.0, 19.0),
    ]
    assert parting(rows) == ["c", "d"]
    assert table(rows).endswith("the first layer that parts is c")
    assert not parting(rows[:2])


def test_decibels():
    assert decibels(10, 1) == pytest.approx(20)
    assert decibels(1, 0) == math.inf
