"""2:4 weights survive torch's own compressed form; everything else is refused by name."""

import pytest
import torch
from sample_models import recipe_of
from torch import nn
from torch.sparse import SparseSemiStructuredTensor
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from paredown import ExportError, Recipe, ScheduledManager
from paredown.integrations.semi_structured import check, convert


def pruned(kind, dtype=torch.bfloat16, structure="2:4", **fields):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32), nn.ReLU(), nn.Linear(32, 10))
    fields = {"type": kind, "structure": structure, "ignore": ["4"], **fields}
    data = [(torch.randn(40, 64),)]
    ScheduledManager(Recipe.load(recipe_of(1, p=fields))).apply(model, data=data)
    return model.to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["sparsegpt", "wanda_pruning", "optimal_brain_compression"])
def test_pruned_weights_survive_the_compressed_form(kind, dtype):
    model = pruned(kind, dtype)
    layers = check(model, ignore=["4"])
    assert list(layers) == ["0", "2"]
    for name, layer in layers.items():
        weight = layer.weight.detach()
        if weight.shape[1] % 64:
            continue
        packed, meta = sparse_semi_structured_from_dense_cutlass(weight)
        assert packed.shape == (weight.shape[0], weight.shape[1] // 2)
        assert torch.equal(sparse_semi_structured_to_dense_cutlass(packed, meta), weight), name


def test_one_of_two_is_what_float32_kernels_take(monkeypatch):
    model = pruned("sparsegpt", torch.float32, "1:2")
    with pytest.raises(ExportError, match=r"0: its weight is torch.float32, and the kernels \(cusparselt\) take"):
        check(model, ignore=["4"])
    monkeypatch.setattr(SparseSemiStructuredTensor, "_FORCE_CUTLASS", True)
    for layer in check(model, ignore=["4"]).values():
        packed, meta = sparse_semi_structured_from_dense_cutlass(layer.weight.detach())
        back = sparse_semi_structured_to_dense_cutlass(packed, meta)  # moves halves of floats: last bits may change
        assert torch.equal(back != 0, layer.weight != 0)
        assert torch.allclose(back, layer.weight, rtol=1e-3)
    with pytest.raises(ExportError, match="of the groups of 2 inputs have more than 1"):
        check(pruned("sparsegpt", torch.float32), ignore=["4"])


def test_every_layer_that_does_not_fit_is_named():
    model = pruned("sparsegpt")
    model[0].weight.data[3, 5:7] = 1.0
    model[0].weight.data[3, 4] = 1.0
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ExportError) as error:
        convert(model)
    assert "0: 0.07% of the groups of 4 inputs have more than 2 weights that are not zero" in str(error.value)
    assert "4: its 10 outputs and 32 inputs are no multiples of 16 and 16" in str(error.value)
    assert "2:" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_quantized_and_computed_weights_are_refused():
    model = pruned("sparsegpt", torch.float32)
    nn.utils.parametrizations.weight_norm(model[0])
    fields = {"type": "weight_quantization", "targets": ["2"], "weights": {"bits": 4}}
    ScheduledManager(Recipe.load(recipe_of(1, q=fields))).apply(model)
    with pytest.raises(ExportError, match="0: its weight is computed.*2: its weight is quantized"):
        check(model, ignore=["4"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="what happens without a GPU")
def test_without_a_gpu_nothing_is_converted():
    with pytest.raises(ExportError, match="0, 2: the kernels are those of a GPU: move the model there first"):
        convert(pruned("sparsegpt"), ignore=["4"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_converted_layers_compute_the_same():
    model = pruned("sparsegpt", torch.float16).cuda()
    x = torch.randn(64, 64, device="cuda", dtype=torch.float16)
    with torch.no_grad():
        want = model(x)
        assert convert(model, ignore=["4"]) == ["0", "2"]
        assert torch.allclose(model(x), want, atol=1e-2)
    assert isinstance(model[0].weight, SparseSemiStructuredTensor)
