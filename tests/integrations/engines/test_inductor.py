"""Programs that inductor compiles."""

import pytest
import torch
from sample_models import recipe_of
from torch import nn

import paredown
from paredown import ExportError, Recipe, ScheduledManager
from paredown.framework.engine.registry import engine_called, engines
from paredown.integrations.export.decomposed_overflow import limit_pairs_

needs_compiler = pytest.mark.skipif(engines()["inductor"].missing() is not None, reason="needs a C++ compiler")


def quantized(model, x, kind, bits=6):  # 6 bits overflow on no processor
    recipe = recipe_of(1, q={"type": kind, "weights": {"bits": bits}})
    ScheduledManager(Recipe.load({**recipe, "run": {"engine": "inductor"}})).apply(
        model, data=[(x,)], example_inputs=(x[:8],)
    )
    return model


def small():
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


@needs_compiler
@pytest.mark.slow
def test_convolutions_and_products_are_integers(tmp_path):
    model, x = small(), torch.randn(32, 3, 8, 8)
    quantized(model, x, "static_quantization")
    made = paredown.export(model, (x[:2],), tmp_path / "m.pt2", engine="inductor", data=[(x,)], repetitions=0)
    assert (made.operators["qconv"], made.operators["qlinear"]) == (2, 1)
    assert made.agreement.spread < 0.1 * made.agreement.simulated
    assert not made.mended


@needs_compiler
@pytest.mark.slow
def test_inputs_that_are_quantized_as_they_come(tmp_path):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval(), torch.randn(32, 16)
    quantized(model, x, "dynamic_quantization")
    made = paredown.export(model, (x[:2],), tmp_path / "m.pt2", engine="inductor", data=[(x,)], repetitions=0)
    assert made.operators["qlinear"] == 2


@needs_compiler
@pytest.mark.slow
def test_a_planted_fault_is_refused(tmp_path, monkeypatch):
    from paredown.integrations.export import quantized_decomposed

    model, x = small(), torch.randn(32, 3, 8, 8)
    quantized(model, x, "static_quantization")
    right = quantized_decomposed.DecomposedSpelling.stored

    def wrong(self, weight):
        stored = right(self, weight)
        stored.codes[0] = stored.codes[0].flip(-1)
        return stored

    monkeypatch.setattr(quantized_decomposed.DecomposedSpelling, "stored", wrong)
    with pytest.raises(ExportError, match="differ"):
        paredown.export(model, (x[:2],), tmp_path / "m.pt2", engine="inductor", data=[(x,)], repetitions=0)


def test_the_file_is_a_program_of_torch_with_int8_weights(tmp_path):
    model, x = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4)).eval(), torch.randn(8, 256)
    quantized(model, x, "static_quantization")
    engine = engines()["inductor"]()
    written = engine.write(model, (x,), tmp_path / "m.pt2")
    assert written.dynamic
    program = torch.export.load(tmp_path / "m.pt2")
    assert program.state_dict["0.weight_codes"].dtype == torch.int8
    (got,) = program.module()(x[:3])
    assert torch.allclose(got, model(x[:3]), atol=1e-5)


def test_without_a_compiler_it_says_so(monkeypatch):
    from torch._inductor import cpp_builder

    def none():
        raise RuntimeError

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(ExportError, match=r"inductor needs a C\+\+ compiler"):
        engine_called("inductor")


def test_pairs_that_can_overflow_are_limited():
    codes = torch.tensor([[127, 127, 3, 0], [60, -64, 1, 0]], dtype=torch.int8)
    zero_point = torch.zeros(2, dtype=torch.int64)
    tensors = {"w_codes": codes, "w_scale": torch.tensor([1.0, 2.0]), "w_zero_point": zero_point}
    assert limit_pairs_(tensors)
    assert int(tensors["w_codes"][0, :2].sum()) * 255 < 2**15
    assert torch.allclose(tensors["w_codes"][0, :2] * tensors["w_scale"][0], torch.full((2,), 127.0), atol=1.0)
    assert tensors["w_codes"][1].tolist() == [60, -64, 1, 0]
    assert not limit_pairs_(tensors)
