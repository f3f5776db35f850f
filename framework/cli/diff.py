"""`paredown diff`: compare two recipes by their meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from paredown.framework.cli.arguments import require_source
from paredown.framework.cli.console import AsJson, Output, Quiet, console, print_json, print_text, table

if TYPE_CHECKING:
    from paredown.framework.recipe import Recipe
    from paredown.framework.recipe.comparing import Difference

__all__ = ["diff", "register"]

EXAMPLES = """\
[bold]Examples[/bold]

paredown diff prune90 prune90-features

paredown diff old.yaml new.yaml --json
"""

First = Annotated[str, typer.Argument(metavar="RECIPE", help="A file, a card, or a name.")]
Second = Annotated[str, typer.Argument(metavar="RECIPE", help="What it is compared with.")]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(epilog=EXAMPLES)(diff)


def diff(first: First, second: Second, as_json: AsJson = False, quiet: Quiet = False, output: Output = None) -> None:
    """Compare what two recipes will run: values after interpolation, with defaults, and windows side by side.

    Exit code 0: they mean the same; 1: they do not.
    """
    for source in (first, second):
        require_source(source)
    from paredown.framework.recipe import Recipe
    from paredown.framework.recipe.comparing import differences

    recipes = Recipe.load(first), Recipe.load(second)
    found = differences(*recipes)
    if as_json:
        print_json([vars(difference) for difference in found], output)
    elif output is not None:
        print_text("".join(f"{one.path}: {one.first} -> {one.second}\n" for one in found), output)
    elif not quiet:
        _print((first, second), recipes, found)
    if found:
        raise typer.Exit(1)


def _print(names: tuple[str, str], recipes: tuple[Recipe, Recipe], found: list[Difference]) -> None:
    if not found:
        return typer.echo(f"{names[0]} and {names[1]} mean the same")
    values = [(one.path, one.first, one.second) for one in found]
    for title, rows in (("value", values), ("window (epochs)", _windows(recipes))):
        console().print(table((title, *names), rows))
        typer.echo()
    return None


def _windows(recipes: tuple[Recipe, Recipe]) -> list[tuple[str, ...]]:
    """Of each modifier: its name, and its window in both recipes."""
    from paredown.framework.recipe.comparing import window_text

    modifiers = dict.fromkeys([*recipes[0].modifiers, *recipes[1].modifiers])
    return [(name, *(window_text(recipe.modifiers.get(name)) for recipe in recipes)) for name in modifiers]
