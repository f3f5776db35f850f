"""`paredown diff`: two recipes compared by what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from paredown.framework.cli.arguments import require_source
from paredown.framework.cli.console import AsJson, Output, Quiet, console, print_json, write

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
        write("".join(f"{one.path}: {one.first} -> {one.second}\n" for one in found), output)
    elif not quiet:
        _print((first, second), recipes, found)
    if found:
        raise typer.Exit(1)


def _print(names: tuple[str, str], recipes: tuple[Recipe, Recipe], found: list[Difference]) -> None:
    if not found:
        return typer.echo(f"{names[0]} and {names[1]} mean the same")
    tables = (_table("value", names, [(one.path, one.first, one.second) for one in found]), _windows(names, recipes))
    for table in tables:
        console().print(table)
        typer.echo()
    return None


def _windows(names: tuple[str, str], recipes: tuple[Recipe, Recipe]) -> Any:
    from paredown.framework.recipe.comparing import window_text

    modifiers = dict.fromkeys([*recipes[0].modifiers, *recipes[1].modifiers])
    rows = [(name, *(window_text(recipe.modifiers.get(name)) for recipe in recipes)) for name in modifiers]
    return _table("window (epochs)", names, rows)


def _table(title: str, names: tuple[str, str], rows: list[tuple[Any, ...]]) -> Any:
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table(title, *map(escape, names), box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row))
    return table
