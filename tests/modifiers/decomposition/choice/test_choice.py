"""Two processes, each with half of the data, decompose alike."""

import pytest
import torch
from decomposing import manager_of
from torch import nn
from two_processes import alike_in_two_processes

CASES = {
    "linear": ("svd_decomposition", {}),
    "fitted": ("tucker_decomposition", {}),
    "budget": ("svd_decomposition", {"rank": {"budget": {"parameters": 0.6}}}),
    "latency": ("svd_decomposition", {"guard": "latency", "min_speedup": 0.9}),
}


def decomposed(name, rank, world):
    """Of each process the decomposed state, aware of its part of the data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16, 64))
    data = [(torch.randn(64, 3, 6, 6) * torch.tensor([1.0, 0.3, 0.1])[:, None, None],) for _ in range(8)]
    method, more = CASES[name]
    fields = {"rank": 4, "activation_aware": True, **more}
    manager_of(method, fields.pop("rank"), **fields).apply(
        model, data=data[rank::world], example_inputs=(torch.randn(16, 3, 6, 6),)
    )
    return model.state_dict()


@pytest.mark.slow
def test_processes_agree(tmp_path):
    for name, key, ours, alone in alike_in_two_processes(decomposed, CASES, tmp_path):
        if name != "latency" and "running_var" not in key:
            assert torch.allclose(ours.double(), alone.double(), atol=1e-3), (name, key)
