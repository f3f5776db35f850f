"""`paredown recipes`: list and print the recipes that are installed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from paredown.framework.cli.arguments import require_source
from paredown.framework.cli.console import AsJson, Output, Quiet, console, print_json, print_text, table

__all__ = ["list_recipes", "register", "show_recipe"]

LIST_EXAMPLES = """\
[bold]Examples[/bold]

paredown recipes list

paredown recipes list --json
"""
SHOW_EXAMPLES = """\
[bold]Examples[/bold]

paredown recipes show mnist/prune-quantize-distill

paredown recipes show mnist/prune-quantize-distill --output my-recipe.yaml

paredown recipes show my-recipe.yaml --resolved
"""

Name = Annotated[str, typer.Argument(help="A recipe's name, a file, or hub:team/name@revision.")]
Resolved = Annotated[bool, typer.Option("--resolved", help="With variables and expressions worked out.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    recipes = typer.Typer(help="The recipes that come with paredown.", no_args_is_help=True, rich_markup_mode="rich")
    recipes.command("list", epilog=LIST_EXAMPLES)(list_recipes)
    recipes.command("show", epilog=SHOW_EXAMPLES)(show_recipe)
    app.add_typer(recipes, name="recipes")


def list_recipes(as_json: AsJson = False, quiet: Quiet = False, output: Output = None) -> None:
    """List the recipes that are installed: bundled ones, those of packages, and of folders in PAREDOWN_RECIPES."""
    from paredown.framework.recipe import Recipe
    from paredown.framework.recipe.reading.collections import recipe_names

    if quiet and not as_json:
        return print_text("".join(f"{name}\n" for name in recipe_names()), output)
    names = recipe_names()
    recipes = {name: Recipe.load(name) for name in names}
    rows = [
        {
            "name": name,
            "from": names[name],
            "description": recipe.description,
            "tags": list(recipe.tags),
            "modifiers": list(recipe.modifiers),
        }
        for name, recipe in recipes.items()
    ]
    return print_json(rows, output) if as_json or output is not None else _print(rows)


def show_recipe(name: Name, resolved: Resolved = False, as_json: AsJson = False, output: Output = None) -> None:
    """Print a recipe as YAML, with what it extends merged in."""
    from paredown.framework.recipe import Recipe
    from paredown.framework.recipe.tree.writing import to_yaml

    require_source(name)
    recipe = Recipe.load(name)
    if as_json:
        return print_json(recipe.resolved(), output)
    return print_text(to_yaml(recipe.resolved()) if resolved else recipe.to_yaml(), output)


def _print(rows: list[dict[str, Any]]) -> None:
    cells = [(row["name"], ", ".join(row["modifiers"]), row["description"]) for row in rows]
    console().print(table(("recipe", "modifiers", "description"), cells) if rows else "no recipes")
