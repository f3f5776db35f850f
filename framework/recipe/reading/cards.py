"""A recipe card: a Markdown page with the recipe as YAML in its front matter."""

from __future__ import annotations

from paredown.framework.errors import RecipeError
from paredown.framework.recipe.tree.positions import Position

__all__ = ["front_matter"]


def front_matter(text: str, file: str) -> str:
    """The YAML between the first line `---` and the next; line numbers stay those of the page.

    >>> front_matter("---\\nrecipe: 1\\n---\\n# Title\\n", "card.md")
    '---\\nrecipe: 1\\n'

    Raises:
        RecipeError: there is no front matter, or it does not end.
    """
    lines = text.splitlines(keepends=True)
    if not lines or lines[0].rstrip() != "---":
        raise RecipeError([Position(file, 1, 1).mistake("no recipe; a card starts with YAML between two lines '---'")])
    for number, line in enumerate(lines[1:], 1):
        if line.rstrip() in ("---", "..."):
            return "".join(lines[:number])
    raise RecipeError([Position(file, 1, 1).mistake("the front matter has no end; close it with a line '---'")])
