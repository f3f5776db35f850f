"""What a recipe means: scalars, expressions, interpolation, extends, overrides, sources, and back to YAML."""

import copy
import json
import pickle

import jsonschema
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from paredown.framework.errors import RecipeError
from paredown.framework.recipe import Recipe
from paredown.framework.recipe.resolving.expression import evaluate
from paredown.framework.recipe.tree.scalars import core_scalar
from paredown.framework.recipe.tree.writing import to_yaml
from paredown.framework.recipe.tree.yaml_nodes import read_yaml

PRUNE = {"type": "magnitude_pruning", "start": 1, "end": 3, "final_sparsity": 0.9}


def recipe(**more):
    return {"recipe": 1, "name": "t", "run": {"epochs": 4}, "modifiers": {"prune": dict(PRUNE)}, **more}


def prune(source, **options):
    return Recipe.load(source, **options).resolved()["modifiers"]["prune"]


def write(folder, name, values):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
    return path


def refused(source, words, **options):
    with pytest.raises(RecipeError) as caught:
        Recipe.load(source, **options)
    assert words in str(caught.value)
    return caught.value


SCALARS = {
    "1e-3": 0.001, "-2.5E+3": -2500.0, ".5": 0.5, "3.": 3.0, "+12": 12, "012": 12, "0o17": 15, "0xFF": 255,
    "": None, "~": None,
    "Null": None, "True": True, "FALSE": False, "off": "off", "yes": "yes", "1_000": "1_000", "1:30": "1:30",
    "2:4": "2:4", "0b11": "0b11", "2024-01-01": "2024-01-01", "tRue": "tRue", "-": "-", "10%": "10%",
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_scalars_of_yaml_1_2(text, value):
    assert core_scalar(text) == value
    assert type(core_scalar(text)) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        *SCALARS,
        *SCALARS.values(),
        1e-7,
        1e22,
        "a: b",
        "# c",
        "${a.b}",
        "x\ny\n",
        " x",
        "\x01",
        "'",
        "<<",
        "0b101",
        "1_0",
        "+.5e3",
    ],
)
def test_written_scalars_read_back(value):
    values = {"a": value, "b": [value], str(value): {"c": value}}
    assert read_yaml(to_yaml(values), "")[0].plain() == values


@pytest.mark.parametrize(
    "text", ["0b101", "0x_1", "0o7", "1_000", "1_0.5", "._5", "12:30", "y", "017", "1e3", "-0b1", "1.5e+3"]
)
def test_text_stays_text_for_readers_of_yaml_1_1(text):
    assert yaml.safe_load(to_yaml({"a": text})) == {"a": text}


EXPRESSIONS = {
    "1 + 2 * 3": 7, "0.1 + 0.2": 0.3, "7 // 2": 3, "2 ** -1": 0.5, "-(3 - 5)": 2, "mod(7, 4)": 3, "min(3, 1, 2)": 1,
    "max(10%, 20%)": "20%", "round(2.6)": 3, "round(2.345, 1)": 2.3, "int(2.9)": 2, "float(2)": 2, "10 / 4": 2.5,
    "60% / 2": "30%", "500 steps * 2": "1000 steps", "1000 steps / 500 steps": 2, "3 epochs + 1": 4,
    "'60%' - 10%": "50%",
    "100 steps // 7": "14 steps", "round(500 steps / 3)": "167 steps", "2 * (3)": 6, "1e3": 1000,
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), EXPRESSIONS.items())
def test_expressions(text, value):
    assert evaluate([text]) == value
    assert type(evaluate([text])) is type(value)


NO_EXPRESSIONS = [
    "", "1 if 1 else 2", "[1]", "lambda: 1", "a.b", "1 < 2", "not 1", "'x'", "min()", "mod(1)", "min", "1;2", "f(1)",
    "2 steps * 2 steps", "2 steps + 1", "1 / 2 steps", "2 ** 2 steps", "10% - 20%", "(0-8) ** 0.5", "0 ** -1",
    "1e30 ** 99",
    "1e30 ** 98.5", "round(1, -5)", "float(2 steps)", "1" * 600, "(" * 190, "1 @ 2", "\\x", "min(x=1)", "mod(1, 0)",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_EXPRESSIONS)
def test_what_is_no_expression(text):
    with pytest.raises(ValueError, match=r"\w"):
        evaluate([text])


def test_interpolations_enter_an_expression_as_values():
    assert evaluate([(-1,), " ** 2"]) == 1
    assert evaluate(["2 * ", ("60%",)]) == "120%"
    assert evaluate([("3 epochs",), " + 1"]) == 4


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


def test_times_are_needed_only_where_there_are_times():
    assert (
        Recipe.load({"recipe": 1, "modifiers": {"f": {"type": "magnitude_pruning", "final_sparsity": 0.5}}}).run_epochs
        is None
    )
    refused({"recipe": 1, "modifiers": {"prune": PRUNE}}, "run.epochs")


def test_a_window_may_be_a_point():
    same = recipe()
    same["modifiers"]["prune"].update(start=3)
    assert prune(same)["start"] == prune(same)["end"] == 3


def test_times_come_out_plain():
    assert prune(recipe(), overrides=["modifiers.prune.start=1.50 epochs", "modifiers.prune.end=500  steps"]) == {
        **PRUNE, "start": 1.5, "end": "500 steps"}  # fmt: skip


def test_extends_merges_removes_and_chains(tmp_path):
    write(tmp_path, "a/first.yaml", recipe(tags=["x"], results=[{"size": 1}]))
    write(tmp_path, "a/second.yaml", {"extends": "first.yaml", "modifiers": {"prune": {"curve": "linear"}}})
    child = {
        "recipe": 1,
        "extends": "a/second.yaml",
        "modifiers": {"prune": {"end": None}, "again": {**PRUNE, "start": 2}},
    }
    loaded = Recipe.load(write(tmp_path, "child.yaml", child))
    assert prune(loaded) == {"type": "magnitude_pruning", "start": 1, "final_sparsity": 0.9, "curve": "linear"}
    assert list(loaded.modifiers) == ["prune", "again"]
    assert loaded.tags == ("x",)
    assert loaded.results == []
    elsewhere = write(tmp_path, "b/alone.yaml", loaded.to_yaml())
    assert Recipe.load(elsewhere).resolved() == loaded.resolved()
    child["modifiers"]["prune"] = None
    assert list(Recipe.load(write(tmp_path, "child.yaml", child)).modifiers) == ["again"]


def test_extends_in_a_circle(tmp_path):
    write(tmp_path, "a.yaml", {"extends": "b.yaml"})
    write(tmp_path, "b.yaml", {"extends": "a.yaml"})
    error = refused(tmp_path / "a.yaml", "a.yaml -> b.yaml -> a.yaml")
    assert error.file.endswith("b.yaml")


def test_overrides():
    overrides = [
        "modifiers.prune.curve=linear",
        "modifiers.prune.end=null",
        "~modifiers.prune.start",
        "+variables.new=3",
        "modifiers.prune.targets=[Linear, Conv2d]",
        "modifiers.prune.final_sparsity=${variables.s}",
    ]
    found = prune(recipe(variables={"s": 0.5}), overrides=overrides)
    assert found == {
        "type": "magnitude_pruning",
        "final_sparsity": 0.5,
        "curve": "linear",
        "targets": ["Linear", "Conv2d"],
    }


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("modifiers.prun.end=2", "override 1: modifiers.prun: modifiers has no 'prun'; did you mean 'prune'?"),
        ("variables.sparsty=2", "did you mean 'sparsity'?"),
        (
            "modifiers.prune.curv=linear",
            "override 1: modifiers.prune.curv: unknown field 'curv'; did you mean 'curve'?",
        ),
        ("modifiers.prune.final_sparsity=2", "override 1: modifiers.prune.final_sparsity: found 2"),
        ("~modifiers.prune.curve", "modifiers.prune has no 'curve'"),
        ("modifiers.prune.targets.0=Linear", "give the whole list"),
        ("nonsense", "has no value"),
        ("modifiers..end=3", "write a.b=value"),
        ("run.epochs=", "has no value"),
        ("run.epochs=[1", "is missing"),
        ("run.epoch=3", "run has one, epochs"),
        ("runn.epochs=3", "did you mean 'run'?"),
    ],
)
def test_wrong_overrides(override, words):
    source = recipe(variables={"sparsity": 1})
    source["modifiers"]["prune"]["targets"] = ["Linear"]
    refused(source, words, overrides=[override])


def test_variables_from_python():
    source = recipe(variables={"s": 0.5})
    source["modifiers"]["prune"]["final_sparsity"] = "${variables.s}"
    assert prune(source, variables={"s": 0.7})["final_sparsity"] == 0.7
    refused(source, "the value comes from variables.s (variable s)", variables={"s": 7})
    refused(source, "variable S: variables.S", variables={"S": 0.7})
    refused(source, "a value of type 'object'", variables={"s": object()})


def test_sources(tmp_path):
    path = write(tmp_path, "mine.yaml", {k: v for k, v in recipe().items() if k != "name"})
    assert Recipe.load(path).name == Recipe.load(str(path)).name == "mine"
    card = write(tmp_path, "card.md", "---\n" + path.read_text() + "---\n# Results\n")
    torch.save({"manager": {"recipe": Recipe.load(path).to_yaml()}}, tmp_path / "state.pt")
    expected = prune(path)
    for source in (card, tmp_path / "state.pt", tmp_path, Recipe.load(path), OmegaConf.create(recipe())):
        assert prune(source) == expected
    torch.save({"x": 1}, tmp_path / "other.pt")
    refused(tmp_path / "other.pt", "a checkpoint without a recipe")
    refused(write(tmp_path, "bare.md", "# Title\n"), "no recipe; a card starts with")
    refused(write(tmp_path, "open.md", "---\nrecipe: 1\n"), "has no end")
    refused(write(tmp_path, "r.txt", "recipe: 1\n"), "not a recipe")
    refused("recipe: 1\nmodifiers: {}\n", "no such file")
    with pytest.raises(TypeError):
        Recipe.load(3)


def test_what_an_app_sets_to_null_is_removed():
    modifiers = {**recipe()["modifiers"], "gone": None}
    app = OmegaConf.create({"recipe": {**recipe(), "modifiers": modifiers}})
    assert list(Recipe.load(app.recipe).modifiers) == ["prune"]
    refused({**recipe(), "modifiers": modifiers}, "null removes an inherited modifier")


def test_inside_an_app():
    source = recipe(variables={"s": "${share}", "t": '${expr:"${variables.s} / 2"}', "u": "${deep.recipe.variables.s}"})
    source["modifiers"]["prune"]["final_sparsity"] = "${variables.t}"
    app = OmegaConf.create({"share": 0.8, "variables": {"s": 7}, "deep": {"recipe": source}})
    loaded = Recipe.load(app.deep.recipe)
    assert prune(loaded)["final_sparsity"] == 0.4
    assert loaded.variables["u"] == 0.8
    assert prune(yaml.safe_load(loaded.to_yaml()))["final_sparsity"] == 0.4
    app.deep.recipe.modifiers.prune.final_sparsity = "${share}"
    refused(app.deep.recipe, "only values under variables")


def test_round_trip_copy_and_pickle():
    source = recipe(variables={"s": 0.5}, description="a\nb\n", tags=["off", "1e-3"])
    source["modifiers"]["prune"]["final_sparsity"] = "${variables.s}"
    loaded = Recipe.load(source)
    again = Recipe.load(yaml.safe_load(loaded.to_yaml()))
    assert again.resolved() == loaded.resolved()
    assert "${variables.s}" in again.to_yaml()
    for other in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert other.resolved() == loaded.resolved()
        assert other.modifiers["prune"].name == "prune"


def test_schema():
    schema = Recipe.schema()
    json.dumps(schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    good = recipe(variables={"s": 0.5})
    good["modifiers"]["prune"]["final_sparsity"] = "${variables.s}"
    check.validate(good)
    check.validate({"recipe": 1, "extends": "a.yaml", "modifiers": {"prune": None, "x": {"end": 3}}})
    for wrong in ({"final_sparsity": 2}, {"curv": 1}, {"type": "x"}):
        bad = copy.deepcopy(good)
        bad["modifiers"]["prune"].update(wrong)
        assert not check.is_valid(bad)
    assert not check.is_valid({"recipe": 2, "modifiers": {}})
    fields = schema["$defs"]["magnitude_pruning"]["properties"]
    assert fields["final_sparsity"]["description"]
    assert fields["start"]["default"] == 0


def test_windows_are_checked_beside_mistakes_in_fields():
    prune = {"type": "magnitude_pruning", "end": 9, "final_sparsty": 0.5}
    with pytest.raises(RecipeError) as caught:
        Recipe.load({"recipe": 1, "run": {"epochs": 8}, "modifiers": {"prune": prune}})
    told = str(caught.value)
    assert "final_sparsty" in told
    assert "modifiers.prune.end: found 9 epochs; the run ends after 8 epochs" in told


def test_the_name_of_the_file_travels(tmp_path):
    (tmp_path / "mine.yaml").write_text("recipe: 1\nmodifiers: {}\n")
    (tmp_path / "other.yaml").write_text(Recipe.load(tmp_path / "mine.yaml").to_yaml())
    assert Recipe.load(tmp_path / "other.yaml").name == "mine"
