"""Two recipes are compared by their meaning."""

from changed_recipes import BASE, changed

from paredown import Recipe
from paredown.framework.recipe.comparing import differences


def paths(first, second):
    return [one.path for one in differences(Recipe.load(first), Recipe.load(second))]


def test_meaning_is_compared_not_text():
    same = [
        changed("name", "other"),
        changed("description", "words"),
        changed("modifiers.prune.final_sparsity", 0.5),
        changed("modifiers.prune.final_sparsity", '${expr:"${variables.s} * 1"}'),
        changed("modifiers.prune.start", "25%"),
        changed("modifiers.prune.start", 1.0),
        changed("modifiers.prune.scope", "global"),
        changed("modifiers.quantize.weights", {"bits": 8}),
        {**BASE, "modifiers": dict(reversed(BASE["modifiers"].items()))},
        changed("results", [{"task": "x"}]),
    ]
    for other in same:
        assert paths(BASE, other) == [], other
    assert paths(BASE, changed("variables.s", 0.6)) == ["modifiers.prune.final_sparsity"]
    assert paths(BASE, changed("run.epochs", 5)) == ["run.epochs"]
    assert paths(BASE, changed("modifiers.quantize.weights", {"bits": 4})) == ["modifiers.quantize.weights.bits"]
    assert paths(BASE, changed("modifiers.prune.type", "random_pruning")) == ["modifiers.prune.type"]
    extra = changed("modifiers.distill", {"type": "knowledge_distillation"})
    assert paths(BASE, extra) == ["modifiers.distill.type"]
    assert paths(extra, BASE) == ["modifiers.distill.type"]


def test_of_modifiers_that_start_together_the_order_counts():
    together = changed("modifiers.quantize.start", 1)
    turned = {**together, "modifiers": dict(reversed(together["modifiers"].items()))}
    assert paths(together, turned) == ["order of what starts at 1"]
