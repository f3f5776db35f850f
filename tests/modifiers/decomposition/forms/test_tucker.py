"""A core between two bases: beside tensorly, and exact at full rank."""

import pytest
import tensorly
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorly.decomposition import partial_tucker, tensor_train

from paredown.modifiers.decomposition.forms.tensor_train import (
    tensor_train_kernel,
)
from paredown.modifiers.decomposition.forms.tucker import clamped_ranks, tucker2

DECOMPOSITIONS = [tucker2, tensor_train_kernel]


def kernel(groups, out, inputs, positions, seed=0):
    generator = torch.Generator().manual_seed(seed)
    decay = torch.logspace(0, -1, inputs, dtype=torch.float64)[:, None]
    return torch.randn(groups, out, inputs, positions, dtype=torch.float64, generator=generator) * decay


def product(triple):
    return torch.einsum("goa,gabp,gbi->goip", *triple)


@pytest.mark.parametrize("decompose", DECOMPOSITIONS)
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(1, 9))
def test_exact_at_full_rank(decompose, groups, out, inputs, positions):
    tensor = kernel(groups, out, inputs, positions)
    found = decompose(tensor, (10**6, 10**6))
    assert (found[0].shape[2], found[2].shape[1]) == clamped_ranks(tensor.shape, (10**6, 10**6))
    assert torch.allclose(product(found), tensor, atol=1e-12)


@pytest.mark.parametrize("ranks", [(3, 3), (8, 4), (2, 10), (1, 1)])
@pytest.mark.parametrize("shape", [(24, 16, 9), (10, 20, 25), (16, 16, 3)])
def test_not_above_tensorly(shape, ranks):
    tensor = kernel(1, *shape)
    ranks = clamped_ranks(tensor.shape, ranks)
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        (core, factors), _ = partial_tucker(tensor[0], rank=list(ranks), modes=[0, 1])
        tucker = tensorly.tenalg.multi_mode_dot(core, factors, modes=[0, 1])
        train = tensorly.tt_to_tensor(tensor_train(tensor[0].permute(1, 2, 0), [1, ranks[1], ranks[0], 1]))
    for decompose, peer in ((tucker2, tucker), (tensor_train_kernel, train.permute(2, 0, 1))):
        ours = (product(decompose(tensor, ranks))[0] - tensor[0]).norm()
        assert ours <= (peer - tensor[0]).norm() * (1 + 1e-6)


@pytest.mark.parametrize("decompose", DECOMPOSITIONS)
def test_factors_are_balanced_with_decided_signs(decompose):
    output, core, inputs = decompose(kernel(2, 12, 10, 9), (6, 5))
    norms = [output.norm(), core.norm(), inputs.norm()]
    assert max(norms) < 2 * min(norms)
    assert (output.gather(1, output.abs().argmax(1, keepdim=True)) > 0).all()
    assert (inputs.gather(2, inputs.abs().argmax(2, keepdim=True)) > 0).all()


@pytest.mark.parametrize("decompose", DECOMPOSITIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_types_and_zeros(decompose, dtype):
    assert {part.dtype for part in decompose(kernel(1, 6, 5, 9).to(dtype), (3, 3))} == {dtype}
    assert not product(decompose(torch.zeros(1, 6, 5, 9, dtype=dtype), (3, 3))).any()
