import pytest
import yaml

from paredown.framework.recipe.tree.writing import to_yaml
from paredown.framework.recipe.tree.yaml_nodes import read_yaml

SCALARS = {
    "1e-3": 0.001, "-2.5E+3": -2500.0, ".5": 0.5, "3.": 3.0, "+12": 12, "012": 12, "0o17": 15, "0xFF": 255,
    "": None, "~": None,
    "Null": None, "True": True, "FALSE": False, "off": "off", "yes": "yes", "1_000": "1_000", "1:30": "1:30",
    "2:4": "2:4", "0b11": "0b11", "2024-01-01": "2024-01-01", "tRue": "tRue", "-": "-", "10%": "10%",
}  # fmt: skip


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
