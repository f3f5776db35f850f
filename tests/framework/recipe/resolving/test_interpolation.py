from small_recipes import recipe, refused, write

from paredown import Recipe


def test_interpolation():
    variables = {"b": 2, "a": "${variables.b}", "c": [1, "${..b}"], "d": '${expr:"${.b} * 3"}', "e": "${.c[1]}",
                 "f": "${.c}", "g": "run-${.b}-${.d}", "h": r"\${b}", "i": "${variables.${.j}}", "j": "b",
                 "k": "${.l.n}", "l": "${.m}", "m": {"n": 5}}  # fmt: skip
    found = Recipe.load(recipe(variables=variables)).variables
    assert found == {"b": 2, "a": 2, "c": [1, 2], "d": 6, "e": 2, "f": [1, 2], "g": "run-2-6", "h": "${b}", "i": 2,
                     "j": "b", "k": 5, "l": {"n": 5}, "m": {"n": 5}}  # fmt: skip


def test_a_mistake_below_an_interpolated_mapping_names_both_places(tmp_path):
    text = "recipe: 1\nrun: {epochs: 3}\nvariables:\n  p: {type: magnitude_pruning, final_sparsity: 3}\n"
    error = refused(write(tmp_path, "r.yaml", text + "modifiers:\n  prune: ${variables.p}\n"), "r.yaml:4:6")
    assert (error.line, error.path) == (6, "modifiers.prune.final_sparsity")
