"""Modifiers that overwrote each other in SparseML, and would fight here."""

from paredown.integrations.conversion.conversion import convert

RATE = "  - !SetLearningRateModifier\n    start_epoch: {start}\n    learning_rate: {rate}\n"
FUNCTION = (
    "  - !LearningRateFunctionModifier\n    start_epoch: {start}\n    end_epoch: {end}\n"
    "    lr_func: linear\n    init_lr: 0.1\n    final_lr: 0.0\n"
)
PRUNE = (
    "  - !GMPruningModifier\n    params: __ALL_PRUNABLE__\n    init_sparsity: 0.0\n    final_sparsity: {final}\n"
    "    start_epoch: {start}\n    end_epoch: {end}\n    update_frequency: 1\n{more}"
)
KEEP = "  - !ConstantPruningModifier\n    params: __ALL_PRUNABLE__\n    start_epoch: {start}\n"


def converted(*modifiers):
    result = convert("num_epochs: 20\nmodifiers:\n" + "".join(modifiers), "old.yaml")
    return list(result.recipe["modifiers"].values()), [(note.line, note.reason) for note in result.notes.notes]


def test_a_rate_holds_until_the_next_one():
    new, listed = converted(RATE.format(start="eval(num_epochs / 4)", rate=0.01), RATE.format(start=0, rate=0.1))
    assert new[0]["start"] == '${expr:"${variables.num_epochs} / 4"}'
    assert new[1]["end"] == new[0]["start"]
    assert listed == []


def test_a_rate_that_a_function_overwrites_at_once_is_left_out():
    new, listed = converted(RATE.format(start=0, rate=0.5), FUNCTION.format(start=0, end=9))
    assert [one["curve"] for one in new] == ["linear"]
    assert listed == [(3, "left out: line 6 sets another rate at the same time")]


def test_a_function_that_is_cut_short_is_told():
    new, listed = converted(FUNCTION.format(start=0, end=9), RATE.format(start=5, rate=0.5))
    assert new[0]["end"] == 5
    assert listed == [(3, "it ends where line 9 sets another rate, and is as much steeper")]


def test_zeros_that_are_held_need_no_keeping():
    new, listed = converted(PRUNE.format(final=0.5, start=0, end=5, more=""), KEEP.format(start=5))
    assert [one["type"] for one in new] == ["magnitude_pruning"]
    assert listed[0][0] == 10


def test_zeros_that_are_let_go_of_are_kept_by_the_next():
    more = "    leave_enabled: False\n"
    new, listed = converted(PRUNE.format(final=0.5, start=0, end=5, more=more), KEEP.format(start=5))
    assert [(one["type"], one.get("hold")) for one in new] == [
        ("magnitude_pruning", False),
        ("constant_sparsity", None),
    ]
    assert listed == []


def test_a_second_pruning_takes_over():
    new, _ = converted(
        PRUNE.format(final=0.5, start=0, end=5, more=""), PRUNE.format(final=0.9, start=7, end=9, more="")
    )
    assert [one.get("hold") for one in new] == [False, None]
    assert converted(
        PRUNE.format(final=0.5, start=0, end=5, more=""), PRUNE.format(final=0.9, start=7, end=9, more="")
    )[1] == [(3, "its zeros are free from its end until line 10 starts")]
