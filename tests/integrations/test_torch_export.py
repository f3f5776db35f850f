"""Export with torch.export: a file of aten operators that says what the model says."""

import subprocess
import sys

import pytest
import torch
from sample_models import mlp, recipe_of
from torch import nn

from paredown import Recipe, ScheduledManager
from paredown.framework.errors import ExportError
from paredown.integrations.torch_export import export

INT8 = {"bits": 8, "granularity": "channel", "symmetric": True}


def quantized(model, kind, inputs, **fields):
    recipe = recipe_of(1, quantize={"type": kind, **fields})
    ScheduledManager(Recipe.load(recipe)).apply(model, data=[inputs] * 2, example_inputs=inputs)
    return model.eval()


def convolutions():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, 2)),
        *(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    for norm in (model[1], model[4]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(norm.weight)
    return model.eval()


@pytest.mark.parametrize("symmetric", [True, False])
def test_folded_codes_with_negative_gains_are_exact(tmp_path, symmetric):
    inputs = (torch.randn(2, 3, 8, 8),)
    model = quantized(
        convolutions(), "static_quantization", inputs, weights={**INT8, "symmetric": symmetric},
        activations={"bits": 8, "granularity": "tensor", "observer": "minmax"},
    )  # fmt: skip
    result = export(model, inputs, tmp_path / "model.pt2")
    assert result.agreement.difference < 1e-5
    program = torch.export.load(str(tmp_path / "model.pt2"))
    assert not [node for node in program.graph.nodes if "batch_norm" in str(node.target)]


@pytest.mark.parametrize(
    "scheme",
    [{"bits": 8}, {"bits": 3}, {"bits": 4, "group_size": 8, "symmetric": False}, {"bits": 4, "block": [4, 8]},
     {"format": "fp8_e5m2"}, {"format": "fp4_e2m1", "group_size": 16}],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["weight_quantization", "dynamic_quantization"])
def test_every_scheme_is_exact(tmp_path, kind, scheme):
    inputs = (torch.randn(4, 16),)
    model = quantized(mlp(), kind, inputs, weights=scheme)
    assert export(model, inputs, tmp_path / "model.pt2").agreement.difference < 1e-5


LOADING = """
import sys, torch
sys.modules["paredown"] = None
program = torch.export.load(sys.argv[1])
operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
assert all(name.startswith("aten.") for name in operators), operators
assert torch.int8 in {tensor.dtype for tensor in program.state_dict.values()}
x, want = torch.load(sys.argv[2])
assert torch.allclose(program.module()(x)[0], want, atol=1e-5)
"""


def test_it_loads_where_paredown_is_not(tmp_path):
    inputs = (torch.randn(4, 16),)
    model = quantized(mlp(256), "static_quantization", inputs, weights=INT8)
    result = export(model, inputs, tmp_path / "model.pt2", repetitions=2)
    assert result.bytes < result.reference_bytes
    assert result.latency is not None
    torch.save((inputs[0], model(inputs[0]).detach()), tmp_path / "case.pt")
    command = [sys.executable, "-c", LOADING, str(tmp_path / "model.pt2"), str(tmp_path / "case.pt")]
    subprocess.run(command, check=True, timeout=300)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_cannot_be_exported_is_an_error(tmp_path):
    with pytest.raises(ExportError, match=r"torch.export cannot trace the model: .*data-dependent"):
        export(Branching(), (torch.randn(3),), tmp_path / "model.pt2")


def test_a_difference_beyond_the_tolerance_is_an_error(tmp_path):
    inputs = (torch.randn(4, 16),)
    model = quantized(mlp(), "dynamic_quantization", inputs, weights=INT8)
    with pytest.raises(ExportError, match="more than the tolerance -1"):
        export(model, inputs, tmp_path / "model.pt2", tolerance=-1.0)
