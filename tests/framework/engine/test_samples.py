"""What a file is compared on: at least 32 samples, from data that fits, else with noise."""

import pytest
import torch

from paredown.framework.engine.samples import LEAST, samples_of
from paredown.framework.model.batches import samples_in


def count(found):
    return sum(samples_in(batch) for batch in found)


def test_data_comes_first_and_only_as_much_as_is_needed():
    data = [(torch.full((16, 4), float(k)), torch.zeros(16)) for k in range(5)]
    found = samples_of((torch.randn(8, 4),), data, None)
    assert [batch[0][0, 0].item() for batch in found] == [0.0, 1.0]


def test_without_data_the_example_is_repeated_with_noise():
    example = (torch.randn(3, 4), torch.randint(0, 9, (3,)))
    found = samples_of(example, None, None)
    assert count(found) >= LEAST
    assert torch.equal(found[0][0], example[0])
    assert not torch.equal(found[1][0], example[0])
    assert torch.equal(found[1][1], example[1])
    assert (found[1][0] - example[0]).std() < 0.3 * example[0].std()


def test_batches_that_do_not_fit_are_passed_over():
    data = [torch.randn(4, 7), {"x": torch.randn(4, 5)}, torch.randn(40, 5)]
    found = samples_of(torch.randn(2, 5), data, None)
    assert [tuple(each.shape) for each in found] == [(40, 5)]
    fixed = samples_of(torch.randn(2, 5), data, None, fixed=True)
    assert {tuple(each.shape) for each in fixed} == {(2, 5)}


def test_of_named_inputs_what_the_model_takes_is_kept():
    data = [{"ids": torch.randint(0, 9, (32, 6)), "labels": torch.zeros(32)}]
    assert list(samples_of({"ids": torch.randint(0, 9, (2, 6))}, data, None)[0]) == ["ids"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays(dtype):
    assert all(each.dtype == dtype for each in samples_of(torch.randn(2, 5).to(dtype), None, None))
