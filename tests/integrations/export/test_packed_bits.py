import numpy as np
import pytest

from paredown.integrations.export.packed_bits import entries_of, fillers, parts_of, to_parts


@pytest.mark.parametrize("width", range(1, 9))
def test_numbers_are_read_back_from_their_bits(width):
    numbers = np.random.default_rng(width).integers(0, 1 << width, 13)
    parts = to_parts(numbers, width)
    assert sum(part.nbytes for part in parts) == sum(-(-13 * bits // 8) for bits in parts_of(width))
    found = [0] * 13
    for part, bits, low in zip(parts, parts_of(width), np.cumsum((0, *parts_of(width))), strict=False):
        text = "".join(f"{byte:08b}"[::-1] for byte in part.reshape(-1))  # the lowest bit first
        for place in range(13):
            found[place] |= int(text[place * bits : (place + 1) * bits][::-1], 2) << int(low)
    assert found == numbers.tolist()


@pytest.mark.parametrize("width", range(2, 9))
def test_fillers_stand_before_gaps_that_are_too_large(width):
    gaps = np.array([0, 1, 3, 4, 255, 256, 1000, 1])
    steps, places = entries_of(gaps, width)
    assert steps.max() < 1 << width
    assert len(steps) == len(gaps) + fillers(gaps, width)
    assert np.cumsum(steps)[places >= 0].tolist() == np.cumsum(gaps).tolist()
    assert places[places >= 0].tolist() == list(range(len(gaps)))


def test_nothing_has_no_entries():
    steps, places = entries_of(np.zeros(0, np.int64), 4)
    assert len(steps) == len(places) == 0
    assert [len(part) for part in to_parts(np.zeros(0, np.int64), 5)] == [0, 0]
