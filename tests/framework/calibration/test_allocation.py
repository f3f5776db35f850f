"""Allocation against every choice there is."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paredown.framework.calibration.allocation import Option, allocate

numbers = st.integers(1, 30).map(float)
layers = st.dictionaries(
    st.sampled_from("abcd"),
    st.lists(st.builds(Option, st.integers(2, 8), numbers, numbers), min_size=1, max_size=4),
    min_size=1,
)


@settings(max_examples=200, deadline=None)
@given(layers, st.integers(1, 100))
def test_within_the_budget_and_near_the_best(options, budget):
    every = [
        (sum(o.cost for o in choice), sum(o.error for o in choice)) for choice in itertools.product(*options.values())
    ]
    fitting = [error for cost, error in every if cost <= budget]
    if not fitting:
        with pytest.raises(ValueError, match="the least that these layers can cost"):
            allocate(options, budget)
        return
    chosen = allocate(options, budget)
    assert set(chosen) == set(options)
    assert all(chosen[name] in options[name] for name in options)
    assert sum(o.cost for o in chosen.values()) <= budget
    error = sum(o.error for o in chosen.values())
    steps = max(max(o.error for o in each) - min(o.error for o in each) for each in options.values())
    assert error <= min(fitting) + steps  # what greedy can lose: the last step


def test_with_room_for_all_each_gets_its_best():
    options = {"a": [Option(8, 8.0, 0.1), Option(4, 4.0, 0.2)], "b": [Option(8, 8.0, 0.0), Option(4, 4.0, 3.0)]}
    assert {name: o.setting for name, o in allocate(options, 100).items()} == {"a": 8, "b": 8}
    assert {name: o.setting for name, o in allocate(options, 12).items()} == {"a": 4, "b": 8}


def test_what_the_last_step_saved_too_much_is_spent_again():
    options = {
        "a": [Option(0, 10.0, 0.0), Option(5, 5.0, 0.2), Option(9, 1.0, 0.3)],
        "b": [Option(0, 4.0, 0.0), Option(1, 3.0, 5.0)],
    }
    assert {name: o.setting for name, o in allocate(options, 9).items()} == {"a": 5, "b": 0}
