import pytest
from pydantic import BaseModel, ValidationError

from paredown.framework.modifier.varying import Varying, ends_of, moves, value_at


class Held(BaseModel):
    value: Varying


@pytest.mark.parametrize(
    ("said", "values", "ends", "moving"),
    [
        (0.5, [0.5, 0.5, 0.5], {0.5}, False),
        (2, [2, 2, 2], {2}, False),
        ([[0.5, 1.0], [1, 3.0]], [1.0, 1.0, 3.0], {1.0, 3.0}, True),
        ({"initial": 0, "final": 1}, [0, 0.5, 1], {0, 1}, True),
        ({"initial": 4, "final": 0, "curve": "cosine"}, [4, 2, 0], {0, 4}, True),
        ({"initial": 9, "final": 9, "curve": [[0, 0.2], [1, 0.4]]}, [0.2, 0.3, 0.4], {0.2, 0.4}, True),
    ],
)
def test_a_value_over_the_window(said, values, ends, moving):
    value = Held(value=said).value
    assert [value_at(value, progress) for progress in (0, 0.5, 1)] == pytest.approx(values)
    assert set(ends_of(value)) == ends
    assert moves(value) == moving


@pytest.mark.parametrize(
    "said", ["0.5", True, None, float("nan"), [[0, "x"]], [[2, 1]], [], {"initial": 1}, {"start": 1}]
)
def test_what_is_none(said):
    with pytest.raises(ValidationError):
        Held(value=said)
