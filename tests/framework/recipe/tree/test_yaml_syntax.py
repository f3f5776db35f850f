"""Tabs that separate are read as YAML 1.2 has them; indentation is not made of them."""

import pytest

from paredown import RecipeError
from paredown.framework.recipe.tree.yaml_nodes import read_yaml
from paredown.framework.recipe.tree.yaml_syntax import composed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a:\t1", {"a": 1}),
        ("a\t:\t[1,\t2]\t# why\n\t\nb: 2\t", {"a": [1, 2], "b": 2}),
        ("a: x\ty", {"a": "x\ty"}),
        ("a: x\t\n  y", {"a": "x y"}),
        ("a: {\n\tb: 1}", {"a": {"b": 1}}),
        ("-\ta\n-\tb", ["a", "b"]),
        ("a: |\n  x\ty\n", {"a": "x\ty\n"}),
        ("a: 'x'\t\n\t# remark\nb: 1", {"a": "x", "b": 1}),
    ],
)
def test_a_tab_separates(text, value):
    root, mistakes = read_yaml(text, "f")
    assert (root.plain(), mistakes) == (value, [])


def test_a_tab_is_no_indentation():
    with pytest.raises(RecipeError, match="indented with spaces") as caught:
        read_yaml("a:\n\tb: 1\n", "f")
    assert (caught.value.line, caught.value.column) == (2, 1)


def test_anchors_that_have_an_alias():
    document = composed("a: &one 1\nb: &two 2\nc: *one\n")
    assert list(document.anchors.values()) == ["one"]
