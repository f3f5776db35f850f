import math

import pytest
import torch
from sample_models import batches, mlp, pruning, recipe_of, train
from torch import nn

import paredown
from paredown import Recipe, ScheduledManager
from paredown.framework.storage.sparse import pack_zeros, unpack_zeros


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_bit_comes_back(dtype):
    sparse = torch.zeros(6, 50, dtype=dtype)
    sparse[0, :4] = torch.tensor([-0.0, math.nan, math.inf, 1e-7])
    sparse[3, 7] = -2
    state = {"sparse": sparse, "view": sparse.t(), "dense": torch.randn(5, 5), "count": torch.tensor(3), "none": None}
    packed = pack_zeros(state)
    assert isinstance(packed["sparse"], dict)
    assert packed["dense"] is state["dense"]
    back = unpack_zeros(packed)
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    assert torch.equal(back["sparse"].view(integers), sparse.view(integers))
    assert torch.equal(back["view"].contiguous().view(integers), sparse.t().contiguous().view(integers))
    assert back["count"] == 3


def test_a_checkpoint_of_a_sparse_model_is_small_and_loads(tmp_path):
    def saved(share):
        model = mlp(width=256)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        manager = ScheduledManager(Recipe.load(recipe_of(2, p=pruning(final=share, start=0, end=1))))
        manager.modify(model, optimizer, 10)
        train(model, optimizer, batches(), 2)
        path = tmp_path / f"{share}.pt"
        paredown.save(path, model, optimizer, manager)
        return path, model

    dense, _ = saved(0.0)
    sparse, model = saved(0.95)
    assert sparse.stat().st_size < 0.2 * dense.stat().st_size
    assert torch.load(sparse, weights_only=True)["model"]["0.bias"].shape == (256,)
    loaded = paredown.load(sparse, mlp(width=256))
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_tied_weights_are_packed_once(tmp_path):
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    model[1].weight = model[0].weight
    with torch.no_grad():
        model[0].weight[2:] = 0
    packed = pack_zeros(model.state_dict())
    assert packed["0.weight"] is packed["1.weight"]
