"""What a scan tries of a pruning modifier: the zeros that it would make, one layer at a time, and nothing left behind."""

import copy

import pytest
import torch
from sample_models import batches, conv_net, mlp, recipe_of, training_of
from torch import nn

from paredown import Recipe, ScheduledManager, ScheduleError
from paredown.framework.calibration.sensitivity import choose, scan
from paredown.framework.experiments.settings_recipe import SettingsRecipe
from paredown.framework.modifier.curves import share_of
from paredown.modifiers.pruning.masks.trials import SHARES

CRITERIA = [
    {"type": "magnitude_pruning"},
    {"type": "magnitude_pruning", "norm": "l1", "scope": "lamp"},
    {"type": "taylor_pruning"},
    {"type": "snip_pruning"},
    {"type": "grasp_pruning"},
    {"type": "synflow_pruning", "rounds": 1},
    {"type": "geometric_median_pruning", "structure": "channel"},
    {"type": "batch_norm_scale_pruning", "structure": "channel", "targets": ["stem"]},
    {"type": "fisher_pruning", "update_weights": False, "rounds": 1, "block_size": 10},
    {"type": "random_pruning"},
]
STRUCTURES = ["unstructured", {"block": [2, 2]}, "kernel", "channel"]
STREAMED = [
    {"type": "sparsegpt"},
    {"type": "wanda_pruning"},
    {"type": "wanda_pruning", "update_weights": True},
    {"type": "optimal_brain_compression"},
]


class Mixed(nn.Module):
    """Layers with several weights: an attention and a recurrent one; takes (batch, 16)."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.recurrent = nn.LSTM(8, 4, 2, batch_first=True)
        self.up = nn.ConvTranspose1d(4, 6, 2)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = x.view(len(x), 2, 8)
        x = self.recurrent(self.attention(x, x, x)[0])[0]
        return self.head(self.up(x.transpose(1, 2)).mean(2))


def mixed():
    torch.manual_seed(0)
    return Mixed()


def modifier_of(fields):
    return Recipe.load(recipe_of(1, p={"final_sparsity": 0.5, **fields})).modifiers["p"]


def scene(fields, model, data):
    """A modifier, a training and its trials."""
    modifier = modifier_of(fields)
    training = training_of(modifier, model, data, (data[0][0],))
    return modifier, training, list(modifier.trials(training))


def applied(fields, model, data, **more):
    fields = {
        name: value for name, value in {**fields, **more, "recalibrate_batch_norm": False}.items() if value is not None
    }
    model = copy.deepcopy(model)
    ScheduledManager(Recipe.load(recipe_of(1, p=fields))).apply(model, data=data, example_inputs=(data[0][0],))
    return model.state_dict()


def bits(model):
    return {name: value.clone().view(torch.uint8) for name, value in model.state_dict().items() if value.dim()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def check_trials(fields, model, data):
    """Each trial against the modifier that is applied with that layer's share alone."""
    modifier, training, trials = scene(fields, model, data)
    before = bits(model)
    for trial in trials:
        shares = modifier.with_settings(training, {each.layer: None for each in trials} | {trial.layer: trial.setting})
        wanted = applied(fields, model, data, **shares)
        with trial.treated():
            assert same(model.state_dict(), wanted), trial
            stay = trial.whole - sum(int((w == 0).sum()) for w in of_layer(training, modifier, trial.layer))
            assert trial.cost == stay
        assert same(bits(model), before)
    return trials


def of_layer(training, modifier, layer):
    claimed = {id(weight) for weight in modifier.claimed(training)}
    module = training.model.get_submodule(layer)
    return [weight for weight in module._parameters.values() if id(weight) in claimed]


@pytest.mark.parametrize("fields", CRITERIA, ids=lambda fields: fields["type"])
def test_zeros_are_those_of_the_modifier_on_that_layer_alone(fields):
    trials = check_trials(fields, conv_net().eval(), batches(3, image=True))
    assert {trial.setting for trial in trials} == set(SHARES)


@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
@pytest.mark.parametrize("kind", ["magnitude_pruning", "taylor_pruning"])
def test_structures(kind, structure):
    fields = {"type": kind, "structure": structure, "targets": ["body"]}
    check_trials(fields, conv_net().eval(), batches(2, image=True))


def test_layers_with_several_weights_and_transposed_ones():
    trials = check_trials({"type": "magnitude_pruning", "structure": "channel"}, mixed().eval(), batches(2))
    names = list(dict.fromkeys(trial.layer for trial in trials))
    assert names == ["attention", "attention.out_proj", "recurrent", "up", "head"]


@pytest.mark.parametrize("fields", STREAMED, ids=str)
def test_what_prunes_by_activations(fields):
    check_trials(fields, mlp().eval(), batches(3))


@pytest.mark.parametrize(
    "fields", [{"type": "rigl"}, {"type": "movement_pruning"}, {"type": "acdc", "every": "2 steps"}], ids=str
)
def test_what_trains_has_trials_too(fields):
    _, _, trials = scene(fields, mlp(), batches(2))
    for trial in trials:
        assert trial.whole - trial.cost == share_of(trial.setting, int(trial.whole))


@pytest.mark.parametrize("kind", ["magnitude_pruning", "taylor_pruning", "sparsegpt"])
def test_a_pattern_is_tried_at_its_own_share(kind):
    fields = {"type": kind, "structure": "2:4", "final_sparsity": None}
    modifier, training, trials = scene(fields, mlp(), batches(2))
    assert [trial.setting for trial in trials] == [0.5] * 3
    wanted = applied(fields, training.model, batches(2), targets=["0"])
    with trials[0].treated():
        assert torch.equal(training.model[0].weight, wanted["0.weight"])
    assert modifier.with_settings(training, {"0": 0.5}) is None


@pytest.mark.parametrize("fields", [{"type": "magnitude_pruning"}, {"type": "wanda_pruning"}], ids=str)
def test_restored_bit_for_bit_after_an_exception(fields):
    model = mlp()
    with torch.no_grad():
        model[0].weight[0, :4] = torch.tensor([-0.0, 0.0, 1e-45, -1e-45])
    before = bits(model)
    _, _, trials = scene(fields, model, batches(2))
    with pytest.raises(RuntimeError, match="in between"), trials[4].treated():
        assert not same(bits(model), before)
        raise RuntimeError("in between")
    assert same(bits(model), before)


def redundant():
    """Half of the middle layer's outputs reach nothing."""
    model = mlp()
    with torch.no_grad():
        model[2].weight[16:] *= 1e-6
        model[4].weight[:, 16:] = 0
    return model


@pytest.mark.parametrize("measured", ["output", "loss"])
def test_a_redundant_layer_has_a_small_error(measured):
    modifier, training, trials = scene({"type": "magnitude_pruning"}, redundant(), batches())
    loss = None if measured == "output" else lambda output, batch: nn.functional.cross_entropy(output, batch[1])
    found = {(each.layer, each.setting): abs(each.error) for each in scan(training, trials, loss=loss)}
    assert found["2", 0.5] < 1e-9 < found["0", 0.5]
    assert found["4", 0.5] < 1e-9 < found["4", 0.98]


def test_the_rise_of_the_loss_is_that_over_all_samples():
    data = [*batches(2, 8), *batches(1, 3, seed=5)]
    modifier, training, trials = scene({"type": "magnitude_pruning"}, mlp(), data)
    loss = nn.functional.cross_entropy
    found = scan(training, trials, loss=lambda output, batch: loss(output, batch[1]))
    x, y = torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])
    dense = loss(training.model(x), y)
    with torch.no_grad(), trials[3].treated():
        assert found[3].error == pytest.approx(float(loss(training.model(x), y) - dense), abs=1e-6)


@pytest.mark.parametrize("target", [0.42, 0.8, 0.95])
def test_a_choice_reaches_its_target_and_leaves_little_over(target):
    modifier, training, trials = scene({"type": "magnitude_pruning"}, redundant(), batches())
    found = scan(training, trials)
    choice = choose(found, target)
    assert target <= choice.saved <= target + 0.1
    fields = {"type": "magnitude_pruning", **modifier.with_settings(training, choice.settings)}
    after = applied(fields, training.model, batches())
    zeros = {name: int((after[f"{name}.weight"] == 0).sum()) for name in choice.settings}
    least = {name: int((training.model.state_dict()[f"{name}.weight"] == 0).sum()) for name in zeros}
    sizes = {trial.layer: int(trial.whole) for trial in trials}
    assert zeros == {n: max(share_of(s or 0.0, sizes[n]), least[n]) for n, s in choice.settings.items()}


def test_a_setting_without_a_finite_error_is_not_chosen():
    modifier, training, trials = scene({"type": "magnitude_pruning"}, mlp(), batches())
    found = scan(training, trials, loss=lambda output, batch: output.sum() * torch.inf)
    with pytest.raises(ScheduleError, match=r"0\.5 cannot be met: the settings that were tried save 0 at most"):
        choose(found, 0.5)


def test_names_that_are_patterns_mean_their_layer_alone():
    model = nn.ModuleDict({"a[0]": nn.Linear(2, 2), "*": nn.Linear(2, 2), "Linear": nn.Linear(2, 2)})
    model["re:L[a-z]+"] = nn.Linear(2, 2)
    modifier = modifier_of({"type": "magnitude_pruning"})
    training = training_of(modifier, model)
    settings = {"a[0]": 0.25, "*": 0.5, "Linear": 0.75, "re:L[a-z]+": 1.0}
    fields = modifier.with_settings(training, settings)
    applied = copy.deepcopy(model)
    ScheduledManager(Recipe.load(recipe_of(1, p={"type": "magnitude_pruning", "scope": fields["scope"]}))).apply(
        applied
    )
    assert {name: float((applied[name].weight == 0).float().mean()) for name in settings} == settings


def test_a_model_that_is_one_layer(tmp_path):
    model = nn.Linear(16, 4)
    modifier, training, trials = scene({"type": "magnitude_pruning"}, model, batches(2))
    found = scan(training, trials)
    recipe = Recipe.load(recipe_of(1, p={"type": "magnitude_pruning", "final_sparsity": 0.5}))
    told = SettingsRecipe(tmp_path / "r.yaml", 0.7).write(recipe, training, modifier, found)
    assert told["reached"] == share_of(0.7, 64) / 64
    ScheduledManager.from_yaml(tmp_path / "r.yaml").apply(model)
    assert int((model.weight == 0).sum()) == share_of(0.7, 64)


def test_data_is_asked_for_where_it_is_needed():
    for kind in ("taylor_pruning", "wanda_pruning"):
        modifier = modifier_of({"type": kind})
        with pytest.raises(ScheduleError, match="data=loader"):
            modifier.trials(training_of(modifier, mlp()))
