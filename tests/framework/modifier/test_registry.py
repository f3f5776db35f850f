import sys
import textwrap
from importlib.metadata import EntryPoint
from typing import Literal

import pytest

from paredown import Modifier, ParedownError, Recipe, RecipeError, register
from paredown.framework import discovery
from paredown.framework.modifier import registry as module
from paredown.framework.modifier.registry import registry, type_name


class Mine(Modifier):
    """A stranger's modifier."""

    type: Literal["mine"] = "mine"


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(module, "_registered", {})


def recipe_with(modifier):
    return {"recipe": 1, "run": {"epochs": 2}, "modifiers": {"it": modifier}}


@pytest.fixture
def plug_ins(monkeypatch, tmp_path):
    """Entry points of files in a folder, found by a registry of their own."""

    def use(**sources):
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(str(tmp_path))
        points = [EntryPoint(name, name, module.ENTRY_POINT_GROUP) for name in sources]
        monkeypatch.setattr(discovery, "entry_points", lambda group: points)
        module._installed.cache_clear()

    yield use
    module._installed.cache_clear()


PLUG_IN = """
    from typing import Literal
    from paredown import Modifier

    class Theirs(Modifier):
        type: Literal["{name}"] = "{name}"
"""


def test_the_built_in_ones():
    assert set(registry().types) >= {
        "constant_sparsity",
        "freeze",
        "knowledge_distillation",
        "learning_rate",
        "magnitude_pruning",
        "quantization_aware_training",
        "svd_decomposition",
    }
    assert type_name(Mine) == "mine"
    assert type_name(Modifier) == ""


def test_a_plug_in_is_found(plug_ins):
    plug_ins(theirs=PLUG_IN.format(name="theirs"))
    recipe = Recipe.load({"recipe": 1, "run": {"epochs": 2}, "modifiers": {"it": {"type": "theirs", "end": 1}}})
    assert recipe.modifiers["it"].type == "theirs"


def test_one_that_fails_to_import_takes_nothing_down_and_is_named(plug_ins):
    plug_ins(broken="import nothing_like_this")
    assert "magnitude_pruning" in registry().types
    with pytest.raises(RecipeError, match=r"ModuleNotFoundError.*nothing_like_this"):
        Recipe.load({"recipe": 1, "modifiers": {"it": {"type": "broken"}}})


def test_two_of_one_name_are_both_named(plug_ins):
    plug_ins(one=PLUG_IN.format(name="same"), two=PLUG_IN.format(name="same"))
    with pytest.raises(ParedownError, match=r"'same': one\.Theirs and two\.Theirs"):
        registry()


def test_a_registered_class_is_known_everywhere():
    with pytest.raises(RecipeError, match="unknown type 'mine'"):
        Recipe.load(recipe_with({"type": "mine"}))
    assert register(Mine) is Mine
    assert type(Recipe.load(recipe_with({"type": "mine", "end": 1})).modifiers["it"]) is Mine
    with pytest.raises(RecipeError, match=r"unknown type 'mein'.*did you mean 'mine'"):
        Recipe.load(recipe_with({"type": "mein"}))
    assert "mine" in str(Recipe.schema())


def test_a_class_that_is_defined_again_replaces_the_one_before():
    def cell(largest):
        class Again(Modifier):
            type: Literal["again"] = "again"
            limit: float = largest

        return register(Again)

    cell(1.0)
    second = cell(2.0)
    assert registry().types["again"] is second
    assert Recipe.load(recipe_with({"type": "again"})).modifiers["it"].limit == 2.0


def test_what_cannot_be_registered():
    class Taken(Modifier):
        type: Literal["freeze"] = "freeze"

    class Nameless(Modifier):
        pass

    with pytest.raises(ParedownError, match=r"'freeze': paredown\.modifiers\.training\.freeze\.Freeze and .*Taken"):
        register(Taken)
    with pytest.raises(ParedownError, match="Nameless has no type name: give it the field type: Literal"):
        register(Nameless)
    with pytest.raises(ParedownError, match="a subclass of paredown.Modifier is wanted, not 3"):
        register(3)
    built_in = registry().types["freeze"]
    assert register(built_in) is built_in
    assert not module._registered
