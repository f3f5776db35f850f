"""What is no recipe, or a hostile one: a message that names file and line, and nothing is run."""

import random
import re
from pathlib import Path

import pytest
from old_recipes import problem

from paredown import RecipeError
from paredown.integrations.conversion.conversion import convert
from paredown.integrations.conversion.new_file import text_of

FOLDER = Path(__file__).parent / "recipes"
ODD = ["", "-1", "nonsense", "[1, [2]]", "{a: b}", "eval(x)", "null", "1e400", ".nan", "true", "['re:(']", "{0.5: 3}"]


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch stolen']",
        "!!python/name:os.system",
        "!!python/object/new:os.system [ls]",
        "!<tag:yaml.org,2002:python/object/apply:os.system> ['ls']",
        "!!binary aGVsbG8=",
    ],
)
def test_tags_that_ask_for_objects_are_refused(tag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = problem(f"num_epochs: 3\nmodifiers:\n  - {tag}\n")
    assert told.startswith("old.yaml:3")
    assert tag.split()[0].strip("!<>").removeprefix("tag:yaml.org,2002:") in told
    assert not (tmp_path / "stolen").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "old.yaml:1.*empty"),
        ("just text", "no modifiers"),
        ("a: 1\nb: 2\n", "no modifiers"),
        ("modifiers:\n", "no modifiers"),
        ("modifiers: [1, 2]\n", "old.yaml:1.*1 is no modifier"),
        ("modifiers:\n  - !GMPruningModifier 5\n", "old.yaml:2.*no fields, but 5"),
        ("a: 1\na: 2\n", "old.yaml:2.*given twice.*line 1"),
        ("a: [1\nb: 2\n", "old.yaml:2:2: not valid YAML"),
        ("a: \x00", "old.yaml:1:4: the character U\\+0000"),
        ("a: &x [*x]\nmodifiers: []\n", "nested more than 50 levels deep"),
        ("base: &b {a: 1}\nc:\n  <<: *b\n", "old.yaml:3.*merge keys"),
        ("a: " + "[" * 80 + "]" * 80, "nested more than"),
        ("? [1]\n: 2\n", "a key is a plain word"),
        ("modifiers:\n  - !EpochRangeModifier\n    end_epoch: 3\n", "nothing in it has a counterpart"),
        (
            "modifiers:\n  - !ASRegModifier\n    alpha: 3\n",
            "nothing in it has a counterpart(.|\n)*line 2: !ASRegModifier",
        ),
        ("x: 1\nmodifiers:\n  - foo: {a: 1}\n", "old.yaml:3.*'foo' is no modifier"),
    ],
)
def test_what_is_no_recipe(text, told):
    assert re.search(told, problem(text)), problem(text)


def test_a_bomb_of_aliases_is_refused():
    lines = ["a0: &a0 [1, 1]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 30))]
    assert "more than 20000 values" in problem("\n".join(lines))


def test_a_card_without_front_matter():
    assert "card.md:1" in problem("# Title\n", "card.md")


def test_a_long_document_is_refused():
    assert "at most 1000000" in problem("#" * 1_000_001)


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_any_value_anywhere_ends_in_a_recipe_or_a_message(path):
    """One value at a time is replaced by an odd one."""
    lines = path.read_text().splitlines()
    chosen = random.Random(path.name)
    for index, line in enumerate(lines):
        match = re.match(r"^(\s*(?:- )?[\w\"]+:)( .*)?$", line)
        if match is None:
            continue
        for odd in chosen.sample(ODD, 5):
            text = "\n".join([*lines[:index], f"{match[1]} {odd}", *lines[index + 1 :]])
            assert outcome(text, path.name)


def outcome(text, name):
    """The recipe, or whether the message starts with a place."""
    try:
        return text_of(convert(text, name), name)
    except RecipeError as error:
        return str(error).startswith(f"{name}:") and error.line is not None
