"""Tied numbers, beside least squares."""

import pytest
import torch

from paredown.modifiers.quantization.numbers.tied_values import tied, tied_codes


@pytest.mark.parametrize("scaled", [False, True])
def test_it_is_the_orthogonal_projection(scaled):
    torch.manual_seed(0)
    values, codes = torch.randn(6, 5).double(), torch.randint(1, 4, (6, 5))
    scale = torch.randn(6, 1).double() if scaled else None
    one_hot = torch.nn.functional.one_hot(codes.reshape(-1), 4)[:, 1:].double()
    basis = one_hot * (scale.expand(6, 5).reshape(-1, 1) if scaled else 1)
    solved = torch.linalg.lstsq(basis, values.reshape(-1, 1)).solution
    assert torch.allclose(tied_codes(values, codes, scale)[1:], solved[:, 0])
    assert torch.allclose(tied(values, codes, scale).reshape(-1, 1), basis @ solved)


def test_code_0_is_left_alone():
    values = torch.tensor([1.0, 3.0, 7.0])
    assert tied(values, torch.tensor([1, 1, 0])).tolist() == [2.0, 2.0, 7.0]


def test_what_is_tied_stays_to_the_last_bit():
    torch.manual_seed(0)
    codes = torch.randint(0, 256, (200, 300), dtype=torch.uint8)
    values = torch.randn(256)[codes.long()]
    assert torch.equal(tied(values, codes), values)
