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
