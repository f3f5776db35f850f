"""`paredown card`: write a recipe as a Markdown page that is itself a recipe."""

from __future__ import annotations

import typer

from paredown.framework.cli.arguments import Overrides, Source, require_source
from paredown.framework.cli.console import Output, print_text, write

__all__ = ["card", "register"]

EXAMPLES = """\
[bold]Examples[/bold]

paredown card recipe.yaml --output README.md

paredown card prune90 variables.sparsity=0.8
"""


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(epilog=EXAMPLES)(card)


def card(recipe: Source, overrides: Overrides = None, output: Output = None) -> None:
    """Write a recipe's card: what it does and when, its results, how it is used. The card can be run like the recipe.

    With --output a picture of the timeline is written beside it.
    """
    require_source(recipe)
    from paredown.framework.recipe import Recipe
    from paredown.framework.report.card import card as card_of
    from paredown.framework.report.card import timeline_picture

    loaded = Recipe.load(recipe, overrides or [])
    if output is None:
        return print_text(card_of(loaded, recipe, overrides=overrides or []))
    picture = timeline_picture(loaded)
    beside = output.with_name(f"{output.stem}-timeline.svg")
    write(card_of(loaded, output.name, beside.name if picture else None), output)
    return write(picture, beside) if picture else None
