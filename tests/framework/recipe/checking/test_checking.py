"""Whatever the loader is fed, it gives a recipe or a RecipeError."""

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paredown.framework.errors import RecipeError
from paredown.framework.recipe import Recipe
from paredown.framework.recipe.recipe import _finished
from paredown.framework.recipe.tree.yaml_nodes import read_yaml

GOOD = """\
recipe: 1
name: &n good
run: {epochs: 10}
variables: {sparsity: 0.9, warm: 2, same: *n}
modifiers:
  prune:
    type: magnitude_pruning
    targets: [Linear]
    start: ${variables.warm}
    end: ${expr:"${variables.warm} * 3 + 1"}
    every: 10 steps
    final_sparsity: ${..variables.sparsity}
    curve: [[0, 0.5], [1, 0.9]]
"""
PIECES = ["${", "}", "expr:", '"', "'", "[", "]", "{", ": ", "\n", "  ", "&a ", "*a", "!!x ", "<<", "null", "~", "-1",
          "1e999", "9" * 50, "%", " steps", ".", "..", "\\", "\0", "\t", "#", "---", "|", "\ud800", "\u2028", "**",
          "variables", ".inf", "(", ")", "/0"]  # fmt: skip

word = st.sampled_from([*PIECES, "recipe", "run", "epochs", "modifiers", "type", "magnitude_pruning", "start", "curve"])
scalar = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | word
tree = st.recursive(
    scalar,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(word | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
edits = st.lists(
    st.tuples(st.integers(0, len(GOOD)), st.integers(0, 6), st.sampled_from(PIECES) | st.text(max_size=3)), max_size=4
)


def mutated(changes):
    text = GOOD
    for at, removed, added in changes:
        text = text[:at] + added + text[at + removed :]
    return text


def load_text(text):
    root, mistakes = read_yaml(text, "fuzz")
    if root.mapping is not None:
        return _finished(root, None, "fuzz", mistakes)
    return None


def check(changes, text, values, overrides):
    good = read_yaml(GOOD, "good")[0].plain()
    modifiers = {"prune": {"type": "magnitude_pruning", "final_sparsity": 0.5, "curve": values, "start": values}}
    for load in (
        lambda: load_text(mutated(changes)),
        lambda: load_text(text),
        lambda: Recipe.load({**good, "variables": values}),
        lambda: Recipe.load(values if isinstance(values, dict) else {"recipe": values}),
        lambda: Recipe.load({"recipe": 1, "run": {"epochs": values}, "modifiers": modifiers}),
        lambda: Recipe.load(good, overrides=[overrides, f"modifiers.prune.end={overrides}"]),
    ):
        with contextlib.suppress(RecipeError):
            loaded = load()
            if loaded is not None:
                loaded.resolved(), loaded.to_yaml()


anything = given(edits, st.text(max_size=60), tree, st.text(max_size=20) | st.lists(word, max_size=6).map("".join))
relaxed = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@settings(max_examples=150, **relaxed)
@anything
def test_nothing_but_recipe_errors(changes, text, values, overrides):
    check(changes, text, values, overrides)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=20_000, **relaxed)
@anything
def test_nothing_but_recipe_errors_at_length(changes, text, values, overrides):
    check(changes, text, values, overrides)


def test_bytes(tmp_path):
    path = tmp_path / "r.yaml"
    for content in (
        b"",
        b"\xff",
        b"\xef\xbb\xbfrecipe: 1\nmodifiers: {}\n",
        bytes(range(256)),
        b"\0" * 10,
        b"[" * 100_000,
    ):
        path.write_bytes(content)
        with contextlib.suppress(RecipeError):
            assert Recipe.load(path).modifiers == {}
