"""Makes the text of a converted recipe, and checks it before it is written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from paredown.framework.errors import RecipeError
from paredown.framework.recipe import Recipe
from paredown.framework.recipe.tree.writing import to_yaml
from paredown.integrations.conversion.conversion import Converted
from paredown.integrations.conversion.reading import refuse

__all__ = ["check", "text_of"]


def text_of(converted: Converted, name: str) -> str:
    """The content of the new file: the notes as comments, then the recipe."""
    comments = [f"converted from {name}", *map(str, converted.notes.sorted())]
    head = "".join(f"# {' '.join(comment.split())}\n" for comment in comments)
    return head + to_yaml(converted.recipe)


def check(text: str, file: str) -> None:
    """Load the text that is to be written.

    Raises:
        RecipeError: it is not a valid recipe; with its mistakes.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "converted.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            Recipe.load(path)
        except RecipeError as error:
            mistakes = str(error).replace(str(path), "the new recipe")
            raise refuse(file, 1, f"its translation is invalid, and is not written:\n{mistakes}") from None
