"""Expressions are translated, and code in them is refused."""

import ast
import re

import pytest
from old_recipes import PRUNE, problem

from paredown.integrations.conversion.expressions import parts_of, written


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("eval(epochs)", "${variables.epochs}"),
        ("eval(epochs * 0.6)", '${expr:"${variables.epochs} * 0.6"}'),
        ("eval(2 * 3)", '${expr:"2 * 3"}'),
        ("eval((a + b) * c)", '${expr:"(${variables.a} + ${variables.b}) * ${variables.c}"}'),
        ("eval(a - (b - c))", '${expr:"${variables.a} - (${variables.b} - ${variables.c})"}'),
        ("eval(eval(a) + eval(b * 2))", '${expr:"${variables.a} + ${variables.b} * 2"}'),
        ("eval(a % 3)", '${expr:"mod(${variables.a}, 3)"}'),
        ("eval(math.ceil(a / 3))", '${expr:"-(-(${variables.a} / 3) // 1)"}'),
        ("eval(round(a, 2))", '${expr:"round(${variables.a}, 2)"}'),
        ("eval(-a ** 2)", '${expr:"-${variables.a} ** 2"}'),
    ],
)
def test_expressions(old, new):
    assert written(parts_of(old), str) == new


@pytest.mark.parametrize(
    "text", ["-(a - b) * (c + 2) ** 2 // 3", "a - b - c", "a / (b / c)", "2 ** -c", "(-a) ** 2", "a ** b ** c"]
)
def test_expressions_keep_their_structure(text):
    again = "".join(part if isinstance(part, str) else part[0] for part in parts_of(f"eval({text})"))
    values = {"a": 5.0, "b": 3.0, "c": 2.0}
    assert eval(again, values) == eval(text, values)
    assert ast.dump(ast.parse(again)) == ast.dump(ast.parse(text))


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        ("eval(__import__('os'))", "__import__('os')"),
        ("eval(__import__('os').system('touch stolen'))", "system"),
        ("eval(().__class__)", "().__class__"),
        ("eval([1 for _ in range(9)])", "for _ in range"),
        ("eval(open('/etc/passwd'))", "open"),
        ("eval(lambda: 1)", "lambda"),
        ("eval('a' * 3)", "'a'"),
        ("eval(1 if True else 2)", "if True"),
    ],
)
def test_code_in_expressions_is_refused_by_name(expression, name):
    told = problem(PRUNE.format(final=f'"{expression}"', params="__ALL__"))
    assert name in told
    assert "has no place in an expression" in told
    assert re.match(r"old.yaml:\d+", told)


@pytest.mark.parametrize(
    ("final", "told"),
    [
        ("eval(missing)", "there is no variable 'missing'"),
        ("eval(final + 1)", "'final' is defined by itself"),
        ("eval(1 / 0)", "division by zero"),
        ("eval(9 ** 9 ** 9)", "too large|exponent"),
        ("eval(1 +)", "not an expression"),
        (f"eval({'1 + ' * 200}1)", "at most 400"),
    ],
)
def test_expressions_without_a_value(final, told):
    assert re.search(told, problem(PRUNE.format(final=final, params="__ALL__")))
