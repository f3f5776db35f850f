"""Sums of rank-one terms, beside tensorly's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paredown.modifiers.decomposition.cp_decomposition import CPForm
from paredown.modifiers.decomposition.forms.canonical_polyadic import canonical_polyadic, full_rank
from paredown.modifiers.decomposition.forms.geometry import Geometry


def product(found):
    return torch.einsum("or,ir,pr->oip", found.output, found.inputs, found.positions)


def error_of(found, tensor):
    return float((product(found) - tensor).norm() / tensor.norm())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 9), st.integers(0, 99))
def test_exact_from_the_full_rank_on(out, inputs, positions, seed):
    tensor = torch.randn(out, inputs, positions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for rank in (full_rank(tensor.shape), 1000):
        assert error_of(canonical_polyadic(tensor, rank), tensor) < 1e-12


def kernel(kind, out, inputs, positions=9):
    torch.manual_seed(0)
    noise = torch.randn(out, inputs, positions, dtype=torch.float64)
    if kind == "noise":
        return noise
    rank = min(out, inputs) // 2
    modes = [torch.randn(size, rank, dtype=torch.float64) for size in (out, inputs, positions)]
    planted = torch.einsum("or,ir,pr->oip", *modes) / rank**0.5
    return planted + (0.3 * noise if kind == "noisy" else 0)


@pytest.mark.parametrize(("kind", "out", "inputs"), [("noise", 24, 16), ("noisy", 48, 32), ("planted", 24, 32)])
@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_not_above_the_best_of_three_starts_of_tensorly(kind, out, inputs, ratio):
    import tensorly
    from tensorly.decomposition import parafac

    tensor = kernel(kind, out, inputs)
    rank = tensor.numel() // (ratio * sum(tensor.shape))
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        starts = [parafac(tensor, rank, init="random", random_state=seed) for seed in range(3)]
        theirs = min(float((tensorly.cp_to_tensor(each) - tensor).norm() / tensor.norm()) for each in starts)
    assert error_of(canonical_polyadic(tensor, rank), tensor) <= theirs * (1 + 1e-3) + 1e-3


def test_terms_are_balanced_and_it_is_the_same_every_time():
    tensor = kernel("noisy", 12, 10)
    state = torch.random.get_rng_state()
    one, two = canonical_polyadic(tensor, 8), canonical_polyadic(tensor.clone(), 8)
    assert torch.equal(torch.random.get_rng_state(), state)
    norms = torch.stack([part.norm(dim=0) for part in (one.output, one.positions, one.inputs)])
    assert torch.allclose(norms, norms[:1].expand_as(norms))
    assert torch.equal(one.output, two.output)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_type_is_kept_and_zeros_are_given_back(dtype):
    assert canonical_polyadic(kernel("noise", 6, 5).to(dtype), 4).output.dtype == dtype
    assert not product(canonical_polyadic(torch.zeros(6, 5, 9, dtype=dtype), 4)).any()


def test_terms_that_cancel_each_other_are_objected_to():
    """A tensor of border rank 2 (de Silva & Lim, 2008): with two terms they grow without end."""
    a, b = torch.eye(2, dtype=torch.float64)
    tensor = sum(torch.einsum("o,i,p->oip", *each) for each in ((a, a, b), (a, b, a), (b, a, a)))
    form = CPForm(Geometry.of(nn.Conv1d(2, 2, 2)))
    found = canonical_polyadic(tensor, 2)
    tame = [found.inputs.T[None, ..., None], found.positions.T[:, None, None], found.output[None, ..., None]]
    assert form.objection(tensor[None], tame) is None
    mixed = 100 ** (1 / 3) * torch.stack([a + b / 100, -a], 1)
    wild = [mixed.T[None, ..., None], mixed.T[:, None, None], mixed[None, ..., None]]
    assert (form.product(wild)[0] - tensor).norm() < 0.02 * tensor.norm()
    assert "cancel each other (sensitivity" in str(form.objection(tensor[None], wild))
