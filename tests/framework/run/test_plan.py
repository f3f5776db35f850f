import copy

import pytest
import torch
from sample_models import conv_net, mlp, pruning, recipe_of

from paredown import ParedownError, Recipe, ScheduledManager, ScheduleError, TargetError

ALL = {
    "svd": {"type": "svd_decomposition", "targets": ["head"], "rank": 2, "start": 1, "end": 2, "guard": "none"},
    "prune": pruning(0.5, "25%", "30 steps", targets=["Conv2d"], ignore=["nothing_at_all"]),
    "quantize": {"type": "quantization_aware_training", "targets": ["Conv2d"], "start": 3},
}


def manager_of(epochs=4, **modifiers):
    return ScheduledManager(Recipe.load(recipe_of(epochs, **modifiers)))


def test_what_is_foreseen():
    model = conv_net()
    before = copy.deepcopy(model.state_dict())
    plan = manager_of(**ALL).plan(model, steps_per_epoch=10, example_inputs=torch.randn(1, 1, 8, 8))
    assert [(m.name, m.steps) for m in plan.modifiers] == [
        ("svd", (10, 10)),
        ("prune", (10, 30)),
        ("quantize", (30, 40)),
    ]
    assert [line.layer for line in plan.modifiers[1].layers] == ["stem", "body"]
    assert plan.modifiers[0].remarks == ("end is set but has no effect: it acts once, at start",)
    unmatched, statistics = plan.modifiers[1].remarks
    assert unmatched == "ignore 'nothing_at_all' matches nothing"
    assert "batch-norms are estimated again where data is given" in statistics
    head = 2 * (16 + 4) + 4
    assert plan.parameters[0] - plan.parameters[1] == 16 * 4 + 4 - head
    assert plan.macs[0] == 64 * (9 * 8 + 9 * 8 * 16) + 16 * 4
    assert "svd (svd_decomposition): from 1 epochs to 1 epochs, steps 10 to 10" in str(plan)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_without_steps_there_are_no_windows_but_everything_else():
    plan = manager_of(**ALL).plan(conv_net())
    assert [m.steps for m in plan.modifiers] == [None] * 3
    assert plan.macs is None


def test_it_refuses_what_modify_refuses():
    with pytest.raises(TargetError, match="did you mean 'Linear'"):
        manager_of(prune=pruning(targets=["Linaer"])).plan(mlp())
    with pytest.raises(ScheduleError, match="both want the zeros"):
        manager_of(a=pruning(), b=pruning(0.5, 2, 4)).plan(mlp(), steps_per_epoch=10)


def test_the_picture_has_a_bar_for_each_modifier():
    figure = manager_of(**ALL).plan(conv_net(), steps_per_epoch=10).plot()
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["svd", "prune", "quantize"]
    assert len(axes.patches) == 3


@pytest.mark.parametrize(
    ("other", "start", "told"),
    [
        ({"type": "magnitude_pruning", "final_sparsity": 0.5, "end": 3}, 1, True),
        ({"type": "magnitude_pruning", "final_sparsity": 0.5, "end": 3}, 3, False),
        ({"type": "magnitude_pruning", "final_sparsity": 0.5, "end": 3, "targets": ["0"]}, 1, False),
        ({"type": "constant_sparsity"}, 1, False),
    ],
)
def test_quantization_that_begins_before_pruning_ends_is_remarked(other, start, told):
    quantization = {"type": "quantization_aware_training", "start": start, "targets": ["2"]}
    manager = ScheduledManager(Recipe.load(recipe_of(4, prune=other, quantize=quantization)))
    text = str(manager.plan(mlp(), steps_per_epoch=10))
    assert ("prune (magnitude_pruning) changes the same weights until step 30" in text) == told


def test_a_plot_is_written_into_a_file(tmp_path):
    pytest.importorskip("matplotlib")
    plan = manager_of(**ALL).plan(conv_net(), steps_per_epoch=10)
    plan.plot(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    for wrong in (tmp_path / "nowhere" / "plan.png", tmp_path / "plan.nothing"):
        with pytest.raises(ParedownError, match="cannot be written"):
            plan.plot(wrong)
