from dataclasses import dataclass, field

import pytest
import torch
from sample_models import batches, mlp, train
from torch import nn

from paredown import TargetError
from paredown.framework.model.surgery import Surgery
from paredown.framework.storage.state import PerParameter


@dataclass
class Held:
    masks: PerParameter = field(default_factory=PerParameter)


def thin(layer: nn.Linear, rank: int = 3) -> nn.Sequential:
    two = nn.Sequential(nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features, bias=False))
    two[1].bias = layer.bias
    return two


def trained(model, optimizer):
    train(model, optimizer, batches(3))
    return Surgery(model, [optimizer], {})


def test_replacing_keeps_groups_and_state_in_step():
    model = mlp()
    decayed = [p for n, p in model.named_parameters() if n.endswith("weight")]
    others = [p for n, p in model.named_parameters() if n.endswith("bias")]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}])
    surgery = trained(model, optimizer)
    old, bias = model[2], model[2].bias
    momentum = optimizer.state[bias]["exp_avg"].clone()
    calls = []
    old.register_forward_hook(lambda *_: calls.append(1))
    new = thin(old)
    surgery.replace("2", new, "svd", {"rank": 3})

    assert model[2] is new
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [
        id(p) for p in (model[0].weight, new[0].weight, new[1].weight, model[4].weight)
    ]
    assert [id(p) for p in optimizer.param_groups[1]["params"]] == [id(m.bias) for m in (model[0], new[1], model[4])]
    assert old.weight not in optimizer.state
    assert torch.equal(optimizer.state[bias]["exp_avg"], momentum)
    assert surgery.records == [{"operation": "replace", "module": "2", "modifier": "svd", "spec": {"rank": 3}}]
    before = [p.detach().clone() for p in new.parameters()]
    train(model, optimizer, batches(1))
    assert calls == [1]
    assert all(not torch.equal(p, b) for p, b in zip(new.parameters(), before, strict=True))


def test_taking_back_restores_module_and_groups():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    surgery = Surgery(model, [optimizer], {})
    old, params = model[2], list(optimizer.param_groups[0]["params"])
    surgery.replace("2", thin(old), "svd", {})
    surgery.replace(
        "2.0", thin(model[2][0], 2) if model[2][0].bias is not None else nn.Linear(32, 3, bias=False), "b", {}
    )
    surgery.take_back()
    assert model[2] is old
    assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], params, strict=True))
    assert surgery.records == []


def test_shrinking_in_place_slices_momenta_and_states():
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters())
    surgery = trained(model, optimizer)
    weight, bias = model[0].weight, model[0].bias
    state = Held(PerParameter({weight: torch.arange(32 * 16).view(32, 16), bias: torch.ones(1)}))
    surgery = Surgery(model, [optimizer], {"prune": state})
    kept = torch.tensor([0, 5, 31])
    want, moment = weight[kept].clone(), optimizer.state[weight]["exp_avg"][kept].clone()
    steps = optimizer.state[weight]["step"].clone()
    surgery.shrink("0.weight", 0, kept)
    surgery.shrink("0.bias", 0, kept)
    surgery.shrink("2.weight", 1, kept)
    assert model[0].weight is weight
    assert torch.equal(weight, want)
    assert torch.equal(optimizer.state[weight]["exp_avg"], moment)
    assert torch.equal(optimizer.state[weight]["step"], steps)
    assert torch.equal(state.masks[weight], torch.arange(32 * 16).view(32, 16)[kept])
    assert torch.equal(state.masks[bias], torch.ones(1))
    train(model, optimizer, batches(1))
    assert weight.shape == (3, 16)


def test_the_memory_format_stays():
    layer = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    surgery = Surgery(nn.Sequential(layer), [], {})
    surgery.shrink("0.weight", 0, torch.arange(4))
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert not layer.weight.is_contiguous()


def test_attributes_and_layers_change_and_come_back():
    class Settings:
        def __init__(self):
            self.width, self.part = 32, [1]

    model, settings = mlp(), Settings()
    for module in model.modules():
        module.config = settings
    optimizer = torch.optim.AdamW(model.parameters())
    layers = list(model)
    surgery = trained(model, optimizer)
    surgery.set_attribute("0", "out_features", 7)
    surgery.set_attribute("", "config.width", 7)
    surgery.set_attribute("", "config.depth", 2)
    surgery.remove("", [2, 3])
    assert (model[0].out_features, model.config.width, model[2].config.depth, settings.width) == (7, 7, 2, 32)
    assert list(model) == [layers[0], layers[1], layers[4]]
    assert len(optimizer.param_groups[0]["params"]) == len(optimizer.state) == 4
    fresh = mlp()
    for module in fresh.modules():
        module.config = settings
    again = Surgery(fresh, [torch.optim.SGD(fresh.parameters(), 0.1)], {})
    again.replay(surgery.records, lambda *_: None)
    assert (len(fresh), fresh[0].out_features, fresh.config.width) == (3, 7, 7)
    surgery.take_back()
    assert list(model) == layers
    assert model[0].out_features == 32
    assert model.config is model[1].config is settings
    assert not hasattr(settings, "depth")
    assert len(optimizer.param_groups[0]["params"]) == 6
    with pytest.raises(TargetError, match="no list of layers"):
        surgery.remove("", range(5))


def test_after_the_first_step_nothing_is_kept_to_take_back():
    surgery = Surgery(mlp(), [], {})
    surgery.settle()
    surgery.shrink("0.weight", 0, torch.arange(7))
    surgery.set_attribute("0", "out_features", 7)
    assert not surgery._undo


def test_records_replay_on_a_fresh_model():
    model, fresh = mlp(), mlp()
    surgery = Surgery(model, [], {})
    surgery.replace("2", thin(model[2]), "svd", {"rank": 3})
    surgery.shrink("0.weight", 0, torch.arange(7))
    again = Surgery(fresh, [torch.optim.SGD(fresh.parameters(), 0.1)], {})
    again.replay(surgery.records, lambda name, module, spec: thin(module, spec["rank"]))
    assert {n: p.shape for n, p in fresh.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    again.take_back()
    assert {n: p.shape for n, p in fresh.named_parameters()} == {n: p.shape for n, p in mlp().named_parameters()}


def test_refusals():
    model = mlp()
    model[4].weight = nn.Parameter(torch.randn(4, 32))
    tied = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    tied[1].weight = tied[0].weight
    with pytest.raises(TargetError, match="tied to '1'"):
        Surgery(tied, [], {}).replace("0", thin(tied[0]), "svd", {})
    held = {"prune": Held(PerParameter({model[2].weight: torch.ones(1)}))}
    with pytest.raises(TargetError, match="'prune' holds state"):
        Surgery(model, [], held).replace("2", thin(model[2]), "svd", {})
    with pytest.raises(TargetError, match="prepare"):
        Surgery(model, [], {}, "wrapped: call prepare").replace("2", thin(model[2]), "svd", {})
    with pytest.raises(TargetError, match="model itself"):
        Surgery(model[0], [], {}).replace("", thin(model[0]), "svd", {})


def test_a_module_under_two_names_is_replaced_under_both():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = self.a

    model = Twice()
    Surgery(model, [], {}).replace("a", thin(model.a, 2), "svd", {})
    assert model.a is model.b
