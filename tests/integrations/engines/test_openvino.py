"""Files for OpenVINO."""

import copy

import pytest
import torch
from sample_models import recipe_of
from torch import nn

from paredown import Recipe, ScheduledManager

openvino = pytest.importorskip("openvino")


def test_convolutions_and_products_are_integers(tmp_path):
    torch.manual_seed(0)
    dense = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)),
    ).eval()
    x = torch.randn(32, 3, 12, 12)
    model = copy.deepcopy(dense)
    recipe = {**recipe_of(1, q={"type": "static_quantization"}), "run": {"engine": "openvino"}}
    manager = ScheduledManager(Recipe.load(recipe))
    manager.apply(model, data=[(x,)], example_inputs=(x[:8],))
    made = manager.export(tmp_path / "m.xml", reference=dense, repetitions=3, allow_slower=True)
    assert made.engine == "openvino"
    assert {row.computed for row in made.layers} == {"integer"}
    assert all(row.engine > row.simulated - 6 for row in made.layers)
    assert made.bytes == sum((tmp_path / name).stat().st_size for name in ("m.xml", "m.bin"))
    assert made.bytes < 0.5 * made.reference_bytes
    got = openvino.Core().compile_model(tmp_path / "m.xml", "CPU")(x[:3].numpy())[0]
    assert (torch.from_numpy(got) - dense(x[:3])).square().mean() < 0.01 * dense(x[:3]).square().mean()


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
@pytest.mark.parametrize("inputs", [3, 8])
def test_a_packed_file_is_compiled_to_the_plain_ones_graph(tmp_path, suffix, inputs):
    """With three inputs a place of a kernel is filled up to four, whose pairs may overflow without VNNI."""
    torch.manual_seed(0)
    x = torch.randn(32, inputs, 10, 10)
    model = nn.Sequential(nn.Conv2d(inputs, 96, 3), nn.ReLU(), nn.Conv2d(96, 64, 3), nn.ReLU(), nn.Flatten(1)).eval()
    modifiers = {
        "p": {"type": "magnitude_pruning", "final_sparsity": 0.9, "scope": "local"},
        "q": {"type": "static_quantization"},
    }
    manager = ScheduledManager(Recipe.load({**recipe_of(1, **modifiers), "run": {"engine": "openvino"}}))
    manager.apply(model, data=[(x,)], example_inputs=(x[:8],))
    plain, packed = (tmp_path / f"{name}{suffix}" for name in ("plain", "packed"))
    before = manager.export(plain, repetitions=0)
    made = manager.export(packed, repetitions=0, packed=True)
    assert made.packed.plain_bytes == before.bytes
    assert made.bytes == sum(path.stat().st_size for path in tmp_path.glob("packed.*"))
    assert made.bytes < (0.35 if suffix == ".onnx" else 0.7) * before.bytes
    assert not made.packed.remarks
    assert {row.computed for row in made.layers} == {"integer"}
    one, other = (openvino.Core().compile_model(path, "CPU")(x[:3].numpy())[0] for path in (plain, packed))
    assert one.tobytes() == other.tobytes()
