import sys
import textwrap
from importlib.metadata import EntryPoint
from typing import Literal

import pytest

from paredown import Modifier, ParedownError, Recipe, RecipeError
from paredown.framework.modifier import registry as module
from paredown.framework.modifier.registry import registry, type_name


class Mine(Modifier):
    """A stranger's modifier."""

    type: Literal["mine"] = "mine"


@pytest.fixture
def plug_ins(monkeypatch, tmp_path):
    """Entry points of files in a folder, found by a registry of their own."""

    def use(**sources):
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.syspath_prepend(str(tmp_path))
        points = [EntryPoint(name, name, module.ENTRY_POINT_GROUP) for name in sources]
        monkeypatch.setattr(module, "entry_points", lambda group: points)
        registry.cache_clear()

    yield use
    registry.cache_clear()


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
