"""Counts by brute force, for any parts and any zeros that are there."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from paredown.modifiers.pruning.selection.chunks import shared_out, smallest_in_rows


@st.composite
def parts(draw):
    sizes = draw(st.lists(st.integers(0, 9), min_size=1, max_size=12))
    least = [draw(st.integers(0, size)) for size in sizes]
    return draw(st.integers(sum(least), sum(sizes))), sizes, least


@given(parts())
def test_the_sum_is_exact_and_the_bounds_hold(drawn):
    total, sizes, least = drawn
    counts = shared_out(total, torch.tensor(sizes), torch.tensor(least)).tolist()
    assert sum(counts) == total
    assert all(low <= count <= high for low, count, high in zip(least, counts, sizes, strict=True))


@given(st.integers(1, 9), st.integers(1, 12), st.data())
def test_equal_parts_differ_by_one_at_most(size, count, data):
    total = data.draw(st.integers(0, size * count))
    counts = shared_out(total, torch.full((count,), size), torch.zeros(count, dtype=torch.long))
    assert counts.max() - counts.min() <= 1


def test_what_a_full_part_has_too_much_the_others_have_less():
    counts = shared_out(12, torch.tensor([8, 8, 8]), torch.tensor([8, 0, 0]))
    assert counts.tolist() == [8, 2, 2]


def test_the_smallest_of_rows_with_ties_by_index():
    scores = torch.tensor([[1.0, 0, 0, 2], [3, 3, 3, 3], [4, 3, 2, 1]])
    marks = smallest_in_rows(scores, torch.tensor([1, 2, 4]))
    assert marks.int().tolist() == [[0, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]


def test_rows_in_batches_are_the_same():
    scores = torch.randn(3000, 2000).round(decimals=1)
    counts = torch.randint(0, 2000, (3000,))
    marks = smallest_in_rows(scores, counts)
    assert torch.equal(marks.sum(1), counts)
    row = 2999
    want = scores[row].argsort(stable=True)[: counts[row]].sort().values
    assert torch.equal(marks[row].nonzero()[:, 0], want)
