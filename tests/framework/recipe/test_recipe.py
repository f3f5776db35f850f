"""A recipe that is loaded, copied and written; and a table of malformed ones, each refused at its line and column."""

import copy
import pickle

import pytest
import yaml
from small_recipes import PRUNE, prune, recipe

from paredown import Recipe, RecipeError

GOOD = """\
recipe: 1
name: good
run:
  epochs: 10
variables:
  sparsity: 0.9
  warm: 2
modifiers:
  prune:
    type: magnitude_pruning
    targets: [Linear]
    start: ${variables.warm}
    end: ${expr:"${variables.warm} * 3 + 1"}
    every: 0.5
    scope: global
    initial_sparsity: 0.05
    final_sparsity: ${variables.sparsity}
    curve: cubic
"""
END = '${expr:"${variables.warm} * 3 + 1"}'

#: (what is replaced, by what, line and column of the first mistake, a part of the message)
MALFORMED = [
    # fields and types
    ("curve: cubic", "curv: cubic", 18, 5, "unknown field 'curv'; did you mean 'curve'?"),
    ("curve: cubic", "frobnicate: 1", 18, 5, "the fields are type, start, end"),
    ("curve: cubic", "curve: cubik", 18, 12, "did you mean 'cubic'?"),
    ("curve: cubic", "curve: [[0, 0.5], [0, 0.8]]", 18, 12, "rising order"),
    ("curve: cubic", "curve: [[0, 0.5, 1]]", 18, 12, "[progress, value]"),
    ("scope: global", "scope: 7", 15, 12, "'global'"),
    ("scope: global", "scope: globl", 15, 12, "did you mean 'global'?"),
    ("scope: global", "scope: {layer: {a: 0.5}}", 15, 12, "did you mean 'layers'?"),
    ("final_sparsity: ${variables.sparsity}", "final_sparsity: null", 17, 21, "final_sparsity: final_sparsity is req"),
    ("magnitude_pruning", "magnitud_pruning", 10, 11, "did you mean 'magnitude_pruning'?"),
    ("type: magnitude_pruning", "type: 3", 10, 11, "unknown type 3; the types are"),
    ("    type: magnitude_pruning\n", "", 9, 3, "type is required; one of"),
    ("    final_sparsity: ${variables.sparsity}\n", "", 9, 3, "final_sparsity is required"),
    ("${variables.sparsity}", "1.4", 17, 21, "found 1.4; must be between 0 and 1"),
    ("${variables.sparsity}", "'0.9'", 17, 21, "found '0.9'; must be a number"),
    ("${variables.sparsity}", "true", 17, 21, "found True; must be a number"),
    ("${variables.sparsity}", ".nan", 17, 21, "finite"),
    ("  sparsity: 0.9", "  sparsity: 1.4", 17, 21, "the value comes from variables.sparsity (r.yaml:6:13)"),
    ("0.05", "lots", 16, 23, "found 'lots'; must be a number"),
    ("0.05", "-1", 16, 23, "between 0 and 1"),
    ("[Linear]", "3", 11, 14, "found 3; must be a list"),
    ("[Linear]", "[Linear, 3]", 11, 23, "found 3; must be a text"),
    # times
    ("start: ${variables.warm}", "start: 9", 13, 10, "end (7 epochs) lies before start (9 epochs)"),
    ("start: ${variables.warm}", 'start: "90%"', 13, 10, "lies before start"),
    ("start: ${variables.warm}", "start: -1", 12, 12, "-1 is no time"),
    ("start: ${variables.warm}", "start: soon", 12, 12, '"500 steps"'),
    ("start: ${variables.warm}", "start: 1.5 steps", 12, 12, "a number of steps is whole"),
    ("start: ${variables.warm}", "start: .inf", 12, 12, "finite"),
    (END, "120%", 13, 10, "at most 100%"),
    (END, "11", 13, 10, "the run ends after 10 epochs"),
    ("every: 0.5", "every: 0", 14, 12, "more than 0"),
    ("every: 0.5", "every: 20", 14, 12, "the run ends after 10 epochs"),
    ("run:\n  epochs: 10\n", "", 10, 12, "run.epochs"),
    ("epochs: 10", "epochs: 0", 4, 11, "more than 0"),
    ("epochs: 10", "epochs: ten", 4, 11, "found 'ten'; must be a number of epochs"),
    ("epochs: 10", "epoch: 10", 4, 3, "did you mean 'epochs'?"),
    ("run:\n  epochs: 10", "run: 10", 3, 6, "must be a mapping: run: {epochs: 30}"),
    # the fields of the recipe
    ("recipe: 1", "recipe: 99", 1, 9, "must be 1"),
    ("recipe: 1", "recipe: '1'", 1, 9, "must be 1"),
    ("recipe: 1\n", "", 1, 1, "recipe: 1"),
    ("name: good", "nam: good", 2, 1, "unknown field 'nam'; did you mean 'name'?"),
    ("name: good", "name: [a]", 2, 7, "must be a text"),
    ("name: good", "name: 7", 2, 7, "must be a text"),
    ("name: good", "tags: vision", 2, 7, "must be a list of texts"),
    ("name: good", "tags: [1]", 2, 8, "must be a text"),
    ("name: good", "results: [good]", 2, 11, "must be a mapping"),
    ("name: good", "description: [x]", 2, 14, "must be a text"),
    ("name: good", "extends: 3", 2, 10, "the path of a recipe"),
    ("name: good", "extends: none.yaml", 2, 10, "no such file"),
    ("name: good", "extends: ${variables.warm}", 2, 10, "before anything is resolved"),
    ("modifiers:\n  prune:\n    type", "modifiers:\n  - type", 9, 3, "every modifier has a name"),
    ("  prune:\n", "  p rune:\n", 9, 3, "letters, digits, _ and -"),
    ("  prune:\n", "  other: 3\n  prune:\n", 9, 10, "a mapping with a type"),
    ("  prune:\n", "  prun: null\n  prune:\n", 9, 3, "did you mean 'prune'?"),
    ("  warm: 2", "  warm: 2\n  a b: 3", 8, 3, "letters, digits, _ and -"),
    # interpolation
    ("${variables.sparsity}", "${variables.sparsty}", 17, 21, "did you mean 'variables.sparsity'?"),
    ("${variables.sparsity}", "${sparsity}", 17, 21, "did you mean 'variables.sparsity'?"),
    ("${variables.sparsity}", "${modifiers.prune.hold}", 17, 21, "a field that is left out"),
    ("${variables.sparsity}", "${....x}", 17, 21, "leads above the recipe"),
    ("${variables.sparsity}", "${variables", 17, 21, "does not end"),
    ("${variables.sparsity}", "${oc.env:HOME}", 17, 21, "'oc.env' works in no recipe"),
    ("${variables.sparsity}", "${hydra:runtime.cwd}", 17, 21, "'hydra' works in no recipe"),
    ("${variables.sparsity}", "a-${variables}", 17, 21, "only a single value fits here"),
    ("  warm: 2", "  warm: ${.b}\n  b: ${.warm}", 8, 6, "variables.warm -> variables.b -> variables.warm"),
    ("  warm: 2", "  warm: ${variables}", 7, 9, "variables -> variables.warm -> variables"),
    # expressions
    (END, '${expr:"__import__(1)"}', 13, 10, "unknown function '__import__'"),
    (END, '${expr:"(1).real"}', 13, 10, "'.' has no place"),
    (END, '${expr:"1/0"}', 13, 10, "division by zero"),
    (END, '${expr:"60% + 6"}', 13, 10, "60% and 6 do not mix"),
    (END, '${expr:"7 % 4"}', 13, 10, "mod(a, b)"),
    (END, '${expr:"9**99"}', 13, 10, "too large"),
    (END, '${expr:"2 +"}', 13, 10, "not an expression"),
    (END, '${expr:"warm * 3"}', 13, 10, "${variables.warm}"),
    (END, "${expr:min(1, 2)}", 13, 10, "with quotes around the expression"),
    (END, "${expr:1,2}", 13, 10, "one expression in quotes"),
    (END, '${expr:"100 steps / 7"}', 13, 10, "round(...)"),
    (END, '${expr:"${variables.sparsity} - 2"}', 13, 10, "the value comes from variables.sparsity (r.yaml:6:13)"),
    # YAML
    ("scope: global\n", "scope: global\n    scope: local\n", 16, 5, "given twice; the first is at r.yaml:15:5"),
    ("[Linear]", "!!python/tuple [Linear]", 11, 14, "a recipe has no tags"),
    ("curve: cubic", "<<: {curve: cubic}", 18, 5, "use extends"),
    ("[Linear]", "[Linear", 12, 10, "',' or the closing ']' is missing"),
    ("[Linear]", "*layers", 11, 14, "the alias *layers has no anchor &layers"),
    ("[Linear]", "&a [*a]", 11, 14, "inside the value that it refers to"),
    ("    every: 0.5", "\tevery: 0.5", 14, 1, "indented with spaces"),
    ("name: good", "name: a: b", 2, 8, "quote a text that holds ': '"),
    ("name: good", "name: @good", 2, 7, "put quotes around it"),
    ("name: good", "name good", 2, 1, "a key without a ':'"),
    ("curve: cubic", 'curve: "cubic', 18, 12, "a quote is opened and not closed"),
    ("name: good", "? [a]\n: b", 2, 3, "a key is a plain word"),
    ("name: good", "name: " + "9" * 100, 2, 7, "a number of 100 characters"),
    ("name: good", "name: 1e999", 2, 7, "too large for a number"),
    ("name: good", "name: a\0b", 2, 8, "U+0000"),
    ("name: good", "name: " + "[" * 60, 2, 56, "nested more than 50 levels deep"),
    ("  curve: cubic\n", "  curve: cubic\n---\nrecipe: 1\n", 19, 1, "a recipe is one document"),
    (GOOD, "just words", 1, 1, "a recipe is a mapping of fields"),
    (GOOD, "", 1, 1, "the document is empty"),
    (GOOD, "- a\n", 1, 1, "a recipe is a mapping of fields"),
]


def written(text, folder, name="r.yaml"):
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("old", "new", "line", "column", "words"), MALFORMED, ids=range(len(MALFORMED)))
def test_is_refused_at_its_place(old, new, line, column, words, tmp_path):
    assert old in GOOD
    written(GOOD.replace(old, new, 1), tmp_path)
    with pytest.raises(RecipeError) as caught:
        Recipe.load("r.yaml")
    assert words in str(caught.value)
    assert (caught.value.line, caught.value.column) == (line, column), str(caught.value)
    assert caught.value.file == "r.yaml"
    assert "r.yaml:" in str(caught.value)


def test_one_mistake_is_one_error(tmp_path):
    for old, new, *_ in MALFORMED[:60]:
        written(GOOD.replace(old, new, 1), tmp_path)
        with pytest.raises(RecipeError) as caught:
            Recipe.load("r.yaml")
        assert len(caught.value.errors) <= 2, str(caught.value)


def test_all_mistakes_at_once_and_by_position(tmp_path):
    text = GOOD.replace("curve: cubic", "curv: cubic").replace("name: good", "nam: 3").replace("0.05", "-1")
    written(text.replace(END, '${expr:"1/0"}'), tmp_path)
    with pytest.raises(RecipeError) as caught:
        Recipe.load("r.yaml")
    assert [error.line for error in caught.value.errors] == [2, 13, 16, 18]
    assert [error.path for error in caught.value.errors][2:] == [
        "modifiers.prune.initial_sparsity",
        "modifiers.prune.curv",
    ]


def test_the_source_line_is_shown_with_a_caret(tmp_path):
    written(GOOD.replace("curve: cubic", "curve: cubik"), tmp_path)
    with pytest.raises(RecipeError) as caught:
        Recipe.load("r.yaml")
    shown = str(caught.value).splitlines()
    assert shown[1] == "   18 |     curve: cubik"
    assert shown[2].index("^") == shown[1].index("cubik")


def test_alias_bomb(tmp_path):
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    written(bomb + GOOD, tmp_path)
    with pytest.raises(RecipeError, match="more than 50000 values"):
        Recipe.load("r.yaml")


def test_interpolation_bombs():
    lists = {"a0": ["x"] * 10, **{f"a{i}": [f"${{variables.a{i - 1}}}"] * 10 for i in range(1, 12)}}
    with pytest.raises(RecipeError, match="more than 50000 values"):
        Recipe.load({"recipe": 1, "variables": lists, "modifiers": {}})
    texts = {"a0": "x" * 10, **{f"a{i}": f"${{.a{i - 1}}}" * 10 for i in range(1, 12)}}
    with pytest.raises(RecipeError, match="gives a text of"):
        Recipe.load({"recipe": 1, "variables": texts, "modifiers": {}})
    chain = {f"a{i}": f"${{.a{i + 1}}}" for i in range(500)}
    with pytest.raises(RecipeError, match="a chain of more than"):
        Recipe.load({"recipe": 1, "variables": {**chain, "a500": 1}, "modifiers": {}})


def test_too_large(tmp_path):
    written("#" * 1_000_001, tmp_path)
    with pytest.raises(RecipeError, match="at most 1000000"):
        Recipe.load("r.yaml")


def test_not_text(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"recipe: 1\nname: \xff\xfe\n")
    with pytest.raises(RecipeError, match="not UTF-8") as caught:
        Recipe.load("r.yaml")
    assert caught.value.line == 2


def test_times_come_out_plain():
    assert prune(recipe(), overrides=["modifiers.prune.start=1.50 epochs", "modifiers.prune.end=500  steps"]) == {
        **PRUNE, "start": 1.5, "end": "500 steps"}  # fmt: skip


def test_round_trip_copy_and_pickle():
    source = recipe(variables={"s": 0.5}, description="a\nb\n", tags=["off", "1e-3"])
    source["modifiers"]["prune"]["final_sparsity"] = "${variables.s}"
    loaded = Recipe.load(source)
    again = Recipe.load(yaml.safe_load(loaded.to_yaml()))
    assert again.resolved() == loaded.resolved()
    assert Recipe.load(loaded.written()).written() == yaml.safe_load(loaded.to_yaml())
    assert "${variables.s}" in again.to_yaml()
    for other in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert other.resolved() == loaded.resolved()
        assert other.modifiers["prune"].name == "prune"
