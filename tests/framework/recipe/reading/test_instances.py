"""Modifiers that are instances in a recipe's dict, or classes of a script."""

import subprocess
import sys
import textwrap
from typing import Literal

import pytest
from sample_models import mlp

from paredown import Modifier, ParedownError, Recipe, ScheduledManager
from paredown.framework.modifier import registry
from paredown.modifiers.decomposition.choice.ranks import Ratio
from paredown.modifiers.decomposition.svd_decomposition import SvdDecomposition
from paredown.modifiers.pruning.magnitude_pruning import MagnitudePruning


class Noted(Modifier):
    """Keeps a text."""

    type: Literal["noted"] = "noted"
    text: str = ""


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


def loaded(**modifiers):
    return Recipe.load({"recipe": 1, "run": {"epochs": 4}, "modifiers": modifiers})


def test_an_instance_is_its_fields():
    given = MagnitudePruning(final_sparsity=0.75, start=1, end="50%", structure={"block": [1, 4]}, ignore=("head",))
    recipe = loaded(prune=given, low=SvdDecomposition(rank=Ratio(ratio=4)), after={"type": "freeze", "end": 1})
    assert recipe.modifiers["prune"] == given.named("prune")
    assert recipe.modifiers["prune"].name == "prune"
    assert recipe.modifiers["low"].rank == Ratio(ratio=4)
    assert Recipe.load(recipe.resolved()).resolved() == recipe.resolved()
    assert "final_sparsity: 0.75" in recipe.to_yaml()
    assert "scope" not in recipe.to_yaml()  # what was not set is not written


def test_a_class_of_the_script_needs_no_more_and_text_is_kept_as_it_is(tmp_path):
    recipe = loaded(it=Noted(text="costs ${price}"))
    assert recipe.modifiers["it"].text == "costs ${price}"
    (tmp_path / "written.yaml").write_text(recipe.to_yaml())
    assert Recipe.load(tmp_path / "written.yaml").modifiers["it"].text == "costs ${price}"


def test_overrides_reach_into_instances():
    source = {"recipe": 1, "modifiers": {"it": MagnitudePruning(final_sparsity=0.75)}}
    assert Recipe.load(source, ["modifiers.it.final_sparsity=0.5"]).modifiers["it"].final_sparsity == 0.5


def test_two_classes_of_one_type_name_are_refused():
    class Freeze(Modifier):
        type: Literal["freeze"] = "freeze"

    with pytest.raises(ParedownError, match="two modifiers are called 'freeze'"):
        loaded(it=Freeze())


def test_an_instance_runs():
    model = mlp()
    ScheduledManager(loaded(it=MagnitudePruning(final_sparsity=0.75, scope="local"))).apply(model)
    assert int((model[0].weight == 0).sum()) == round(0.75 * model[0].weight.numel())


CLASS = """
    import sys
    import torch
    import paredown
    from typing import ClassVar, Literal
    from paredown.framework.modifier import PerParameter, TargetedModifier, Training
    from dataclasses import dataclass, field

    @dataclass
    class Seen:
        largest: PerParameter = field(default_factory=PerParameter)

    class Clip(TargetedModifier):
        example: ClassVar = {}
        state_type: ClassVar = Seen
        kinds: ClassVar = (torch.nn.Linear,)
        type: Literal["clip"] = "clip"
        limit: float = 0.1

        def on_start(self, training: Training) -> Seen:
            return Seen(PerParameter({weight: weight.detach().abs() for weight in self.claimed(training)}))

        def on_update(self, training: Training, state: Seen) -> None:
            for weight in state.largest:
                weight.data.clamp_(-self.limit, self.limit)

    def begun(recipe):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        manager = paredown.ScheduledManager.from_yaml(recipe)
        manager.modify(model, optimizer, steps_per_epoch=4)
        return model, optimizer, manager

    def train(model, optimizer, steps):
        for step in steps:
            torch.manual_seed(step)
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
"""
RUN = """
    recipe = {"recipe": 1, "run": {"epochs": 2}, "modifiers": {"clip": Clip(limit=0.2)}}
    model, optimizer, manager = begun(recipe)
    train(model, optimizer, range(8))
    manager.finalize()
    assert max(float(p.abs().max()) for p in (model[0].weight, model[2].weight)) <= 0.2 + 1e-6
    whole = model.state_dict()

    model, optimizer, manager = begun(recipe)
    train(model, optimizer, range(5))
    paredown.save("run.pt", model, optimizer, manager)
    again, optimizer, manager = begun("run.pt")
    paredown.resume("run.pt", again, optimizer, manager)
    train(again, optimizer, range(5, 8))
    manager.finalize()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in again.state_dict().items())
"""
WITHOUT = """
    import torch, paredown
    for read in (lambda: paredown.load("run.pt", torch.nn.Linear(4, 4)), lambda: paredown.Recipe.load("run.pt")):
        try:
            read()
        except (paredown.CheckpointError, paredown.RecipeError) as error:
            print(type(error).__name__, error)
"""


def test_a_class_of_a_script_runs_is_saved_and_resumed_and_is_missed_by_name(tmp_path):
    def run(source):
        (tmp_path / "script.py").write_text(source)
        done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(textwrap.dedent(CLASS) + textwrap.dedent(RUN))
    told = run(textwrap.dedent(WITHOUT)).split("\n")
    assert told[0].startswith("CheckpointError")
    assert told[1].startswith("RecipeError")
    for line in told[:2]:
        assert "needs the modifier class __main__.Clip (type 'clip')" in line
        assert "paredown.register" in line
