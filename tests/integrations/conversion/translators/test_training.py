import pytest
from old_recipes import new_of


def test_milestones_are_epochs_of_the_run_and_cycles_end_with_their_modifier():
    text = (
        "modifiers:\n  - !EpochRangeModifier\n    end_epoch: 9\n  - !LearningRateModifier\n    start_epoch: 2\n"
        "    end_epoch: {end}\n    init_lr: 0.1\n    lr_class: {name}\n    lr_kwargs: {{{numbers}}}\n"
    )
    steps = new_of(text.format(end=-1, name="MultiStepLR", numbers="milestones: [4, 6], gamma: 0.5"))[0]
    assert [(one["start"], one["final"]) for one in steps.values()] == [(2, 0.1), (4, 0.05), (6, 0.025)]
    cycles = new_of(text.format(end=6, name="CosineAnnealingWarmRestarts", numbers="cycle_epochs: 3, lr_min: 0.0"))[0]
    assert [(one["start"], one["end"]) for one in cycles.values()] == [(2, 5), (5, 6)]
    assert cycles["learning_rate_2"]["final"] == pytest.approx(0.075)
    assert cycles["learning_rate_2"]["curve"][-1] == [1, pytest.approx(0.075)]
