from pathlib import Path

import pytest
import yaml
from old_recipes import PRUNE

from paredown import RecipeError
from paredown.integrations.conversion.conversion import convert
from paredown.integrations.conversion.new_file import check, text_of


def test_written_text_reads_back():
    path = Path(__file__).parent / "recipes" / "card_with_variables.md"
    converted = convert(path.read_text(), path.name)
    assert yaml.safe_load(text_of(converted, path.name)) == converted.recipe


def test_an_invalid_translation_lists_its_mistakes():
    converted = convert(PRUNE.format(final=1.5, params="__ALL__"), "old.yaml")
    with pytest.raises(RecipeError) as caught:
        check(text_of(converted, "old.yaml"), "old.yaml")
    assert "is invalid, and is not written" in str(caught.value)
    assert "variables.final" in str(caught.value) or "final_sparsity" in str(caught.value)
