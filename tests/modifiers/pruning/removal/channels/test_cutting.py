"""Cutting channels of many architectures: the output stays, or the channels do."""

import pytest
import torch
from architectures import ARCHITECTURES
from awkward_models import AWKWARD
from torch import nn

from paredown import TargetError
from paredown.framework.model.forward import call
from paredown.framework.model.graph.fusion import export_graph, tensors_of
from paredown.framework.model.surgery import Surgery
from paredown.framework.model.temporary import evaluating
from paredown.modifiers.pruning.removal.channels import (
    Removal,
    analyse,
    commit,
    find_groups,
    fixed_places,
    gone_at,
    runner,
    verified,
)
from paredown.modifiers.pruning.removal.channels.trial import masked

pytestmark = pytest.mark.filterwarnings("ignore")


def output(model, inputs):
    with evaluating(model):
        return tensors_of(call(model, inputs, None))


def removals_for(model, inputs, share, seed=0):
    analysis = analyse(export_graph(model, inputs), model)
    generator = torch.Generator().manual_seed(seed)
    groups = find_groups(analysis, fixed_places(model))
    removals = [
        Removal(group, torch.randperm(group.units, generator=generator)[: round(group.units * share)].sort().values)
        for group in groups
    ]
    return analysis, [removal for removal in removals if 0 < len(removal.units) < removal.group.units]


def cut(model, inputs, share):
    """Cut random units; gives what was done, and the outputs with zeros in their place before."""
    analysis, removals = removals_for(model, inputs, share)
    before = [tensor.clone() for tensor in (*model.parameters(), *model.buffers())]
    made = verified(model, runner(model, inputs, None), analysis, removals)
    assert all(torch.equal(a, b) for a, b in zip(before, (*model.parameters(), *model.buffers()), strict=True))
    with masked(model, gone_at(made.cut.removals)):
        wanted = output(model, inputs)
    commit(Surgery(model, [], {}), made.cut)
    return made, wanted


def close(ours, theirs, tolerance=1e-5):
    return all(
        torch.allclose(a, b, atol=tolerance * max(1.0, float(b.abs().max())), rtol=0)
        for a, b in zip(ours, theirs, strict=True)
    )


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def planned_parameters(model, made):
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    for (name, dimension), indices in gone_at(made.cut.removals).items():
        if name in shapes:
            shapes[name][dimension] -= len(indices)
    return sum(torch.Size(shape).numel() for shape in shapes.values())


#: share of the parameters that stays when half of each group goes, at most
SMALLER = {"convnext": 0.75, "vit_multihead": 0.85, "vit": 0.6, "swin": 0.6, "llama": 0.6, "llama_tied": 0.6, "bert": 0.6, "gpt2": 0.6}  # fmt: skip


@pytest.mark.parametrize("share", [0.3, 0.5])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_cut_network_gives_what_the_masked_one_gave_and_trains(name, share):
    model, inputs = ARCHITECTURES[name]()
    fresh = ARCHITECTURES[name]()[0]
    before = parameters(model)
    made, wanted = cut(model, inputs, share)
    assert not made.refused
    assert close(output(model, inputs), wanted)
    assert parameters(model) == planned_parameters(fresh, made)
    if share == 0.5:
        assert parameters(model) < SMALLER.get(name, 0.45) * before
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    sum(part.float().square().mean() for part in tensors_of(call(model, inputs, None))).backward()
    optimizer.step()
    assert all(torch.isfinite(part).all() for part in output(model, inputs))


@pytest.mark.parametrize("share", [0.3, 0.5])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_channels_whose_weights_are_zero_leave_nothing_behind(name, share):
    """The zeros are written into the model, so that its own output is the reference."""
    model, inputs = ARCHITECTURES[name]()
    analysis, removals = removals_for(model, inputs, share, seed=1)
    with torch.no_grad():
        for (key, dimension), indices in gone_at(removals).items():
            parameter = dict(model.named_parameters()).get(key)
            if parameter is not None:
                parameter.index_fill_(dimension, indices, 0)
    wanted = output(model, inputs)
    made = verified(model, runner(model, inputs, None), analysis, removals)
    assert not made.refused
    commit(Surgery(model, [], {}), made.cut)
    assert close(output(model, inputs), wanted)


@pytest.mark.parametrize("share", [0.3, 0.5])
@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_models_work_or_are_left_alone(name, share):
    model, inputs, least = AWKWARD[name]()
    made, wanted = cut(model, inputs, share)
    assert close(output(model, inputs), wanted)
    assert len(made.cut.removals) >= least
    assert all(made.refused.values())


def test_what_differs_is_undone_and_named():
    model, inputs, _ = AWKWARD["SizeInTheScale"]()
    made, _ = cut(model, inputs, 0.5)
    assert list(made.refused) == ["first"]
    assert "differs by" in made.refused["first"]
    assert model.first.out_features == 24
    model, inputs, _ = AWKWARD["LiteralSizes"]()
    made, _ = cut(model, inputs, 0.5)
    assert "its code fails (RuntimeError: shape '[2, 24]'" in made.refused["first"]


def test_what_only_runs_in_training_is_kept_working():
    model, inputs, _ = AWKWARD["OnlyInTraining"]()
    before = model.norm.running_mean.clone()
    made, _ = cut(model, inputs, 0.5)
    assert list(made.refused) == ["first"]
    assert model.norm.running_mean.abs().sum() == before.abs().sum() == 0
    model.train()(*inputs).sum().backward()


def test_parameters_over_the_same_memory_stay_so():
    model, inputs, _ = AWKWARD["SharedMemory"]()
    cut(model, inputs, 0.5)
    assert model.second.weight.data_ptr() == model.third.weight.data_ptr()
    assert model.body.out_features == 6


def test_sizes_of_enclosing_modules_follow():
    model, inputs = ARCHITECTURES["vit"]()
    cut(model, inputs, 0.5)
    assert [layer["attention"].heads for layer in model.layers] == [2, 2]
    model, inputs = ARCHITECTURES["resnext"]()
    cut(model, inputs, 0.5)
    grouped = model.blocks[0].layers[1][0]
    assert (grouped.groups, grouped.in_channels, grouped.out_channels) == (4, 8, 8)
    assert model.stem[1].num_features == model.stem[0].out_channels == 8


def test_records_replay_on_a_fresh_model_and_are_taken_back():
    model, inputs = ARCHITECTURES["bert"]()
    analysis, removals = removals_for(model, inputs, 0.5)
    surgery = Surgery(model, [], {})
    commit(surgery, verified(model, runner(model, inputs, None), analysis, removals).cut)
    fresh = ARCHITECTURES["bert"]()[0]
    again = Surgery(fresh, [], {})
    again.replay(surgery.records, lambda *_: None)
    fresh.load_state_dict(model.state_dict())
    assert close(output(fresh, inputs), output(model, inputs), 0)
    again.take_back()
    plain = ARCHITECTURES["bert"]()[0]
    assert {n: p.shape for n, p in fresh.named_parameters()} == {n: p.shape for n, p in plain.named_parameters()}
    assert fresh.bert.encoder.layer[0].attention.self.num_attention_heads == 4


def test_a_network_with_dropout_that_is_always_on_is_compared_under_one_seed():
    class Always(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x):
            return nn.functional.dropout(self.b(torch.relu(self.a(x))), 0.5, True)

    model, inputs = Always(), (torch.randn(4, 8),)
    analysis, removals = removals_for(model, inputs, 0.5)
    before = torch.random.get_rng_state()
    made = verified(model, runner(model, inputs, None), analysis, removals)
    assert torch.equal(before, torch.random.get_rng_state())
    assert len(made.cut.removals) == 1


def test_a_model_that_does_not_trace_is_an_error_of_ours():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            return self.a(x) if x.sum() > 0 else x

    with pytest.raises(TargetError, match="cannot be traced"):
        export_graph(Branching(), (torch.randn(2, 4),))
