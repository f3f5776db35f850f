import pytest

from paredown.framework.recipe.tree.scalars import core_scalar

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
