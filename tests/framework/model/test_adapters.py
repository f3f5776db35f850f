"""Adapters and disabled copies are no targets by default; built as PEFT builds them, whose layers name their adapters."""

import copy

from torch import nn

from paredown import Recipe, ScheduledManager
from paredown.framework.model.targets import match


class LowRank(nn.Module):
    adapter_layer_names = ("lora_A", "lora_B")

    def __init__(self, base, rank=2):
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


class Saved(nn.Module):
    adapter_layer_names = ("modules_to_save",)

    def __init__(self, original):
        super().__init__()
        self.original_module = original
        self.modules_to_save = nn.ModuleDict({"default": copy.deepcopy(original)})

    def forward(self, x):
        return self.modules_to_save["default"](x)


def adapted():
    return nn.Sequential(LowRank(nn.Linear(8, 8)), nn.ReLU(), Saved(nn.Linear(8, 4)))


def test_what_is_computed_with_is_meant():
    found = match(adapted(), (), (), (nn.Linear,))
    assert list(found.modules) == ["0.base_layer", "2.modules_to_save.default"]
    assert found.beside == ["0.lora_A.default", "0.lora_B.default", "2.original_module"]


def test_by_name_or_class_they_are_meant():
    assert list(match(adapted(), ("*lora_A*",), (), (nn.Linear,)).modules) == ["0.lora_A.default"]
    assert len(match(adapted(), ("Linear",), (), (nn.Linear,)).modules) == 5


def test_the_plan_says_so():
    recipe = {"recipe": 1, "modifiers": {"p": {"type": "magnitude_pruning", "final_sparsity": 0.5}}}
    plan = ScheduledManager(Recipe.load(recipe)).plan(adapted())
    assert "2.original_module: adapters and disabled copies are left alone unless targets name them" in str(plan)


def test_a_model_that_is_an_adapted_layer_itself():
    found = match(LowRank(nn.Linear(8, 8)), (), (), (nn.Linear,))
    assert list(found.modules) == ["base_layer"]
    assert found.beside == ["lora_A.default", "lora_B.default"]
