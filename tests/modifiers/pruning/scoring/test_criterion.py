"""A criterion that is defined here, with every structure and scope, and as a criterion of other modifiers."""

from typing import ClassVar, Literal

import pytest
import torch
from sample_models import batches, conv_net, recipe_of
from torch import nn

from paredown import Recipe, ScheduledManager
from paredown.framework.modifier import register, registry
from paredown.framework.modifier.curves import share_of
from paredown.modifiers.pruning.gradual_pruning import GradualPruning
from paredown.modifiers.pruning.scoring.criterion import Criterion


class Position(Criterion):
    """Later weights are worth more."""

    def weigh(self, training, weights, watched):
        return {name: torch.arange(each.numel()).float().view(each.shape) for name, each in weights.items()}


class PositionPruning(GradualPruning):
    """By position."""

    example: ClassVar = {"final_sparsity": 0.5}
    type: Literal["position_pruning"] = "position_pruning"

    @property
    def ranking(self):
        return Position()


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    register(PositionPruning)


def apply(fields):
    model = conv_net()
    data = batches(2, image=True)
    ScheduledManager(Recipe.load(recipe_of(p=fields))).apply(model, data=data, example_inputs=(data[0][0],))
    return model


SCOPES = ["global", "local", "erk", "uniform_plus", "lamp", "owl", {"layers": {"body": 0.5}}]
COMBINED = [
    (structure, scope) for structure in ("unstructured", {"block": [2, 1]}, "kernel", "channel") for scope in SCOPES
]


@pytest.mark.parametrize(("structure", "scope"), [*COMBINED, ("2:4", "global"), ("2:4", "local")])
def test_every_structure_and_scope(structure, scope):
    fields = {"type": "position_pruning", "structure": structure, "scope": scope, "targets": ["body"]}
    if structure != "2:4":
        fields["final_sparsity"] = 0.5
    weight = apply(fields).body.weight
    assert int((weight == 0).sum()) == share_of(0.5, weight.numel())
    if structure == "channel":
        assert (weight[:8] == 0).all()


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "channel_pruning", "round_to": 1, "final_sparsity": 0.5, "scope": "local"},
        {"type": "acdc", "every": 1, "final_sparsity": 0.5},
        {"type": "lottery_ticket", "every": 1, "end": 2, "final_sparsity": 0.5},
    ],
)
def test_as_the_criterion_of_another(fields):
    model = conv_net()
    data = batches(4, image=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    manager = ScheduledManager(Recipe.load(recipe_of(3, p={**fields, "criterion": "position"})))
    manager.modify(model, optimizer, 4, example_inputs=(data[0][0],))
    for x, y in data * 3:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    manager.finalize()
    weights = [model.stem.weight, model.body.weight, model.head.weight]
    shrunk = model.body.weight.shape[0] == 8
    assert shrunk or any(bool((weight == 0).any()) for weight in weights)
