import pytest

from paredown.framework.recipe.resolving.expression import evaluate

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
