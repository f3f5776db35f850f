"""`paredown validate`: check recipes, and print every mistake with its position."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from paredown.framework.cli.arguments import require_source, split_overrides
from paredown.framework.cli.console import AsJson, Output, Quiet, print_json, print_problem

__all__ = ["register", "validate"]

EXAMPLES = """\
[bold]Examples[/bold]

paredown validate recipe.yaml

paredown validate recipe.yaml modifiers.prune.end=20 variables.sparsity=0.8

paredown validate recipes/*.yaml --quiet
"""

Arguments = Annotated[
    list[str],
    typer.Argument(metavar="RECIPE [OVERRIDE]", help="Files, cards, bundled names; then overrides (a.b=value)."),
]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(epilog=EXAMPLES)(validate)


def validate(arguments: Arguments, as_json: AsJson = False, quiet: Quiet = False, output: Output = None) -> None:
    """Check recipes: every mistake, with its file, line, column, and what is allowed."""
    sources, overrides = split_overrides(arguments)
    if not sources:
        raise typer.BadParameter("name at least one recipe")
    for source in sources:
        require_source(source)
    results = [_result(source, overrides) for source in sources]
    if as_json or output is not None:
        print_json({"recipes": results}, output)
    if not as_json:
        _print(results, quiet)
    if not all(result["valid"] for result in results):
        raise typer.Exit(1)


def _result(source: str, overrides: list[str]) -> dict[str, Any]:
    from paredown.framework.errors import RecipeError
    from paredown.framework.recipe import Recipe

    try:
        recipe = Recipe.load(source, overrides)
    except RecipeError as error:
        mistakes = [{**vars(mistake), "text": str(mistake)} for mistake in error.errors]
        return {"source": source, "valid": False, "errors": mistakes}
    modifiers = {name: modifier.type for name, modifier in recipe.modifiers.items()}
    return {"source": source, "valid": True, "errors": [], "name": recipe.name, "modifiers": modifiers}


def _print(results: list[dict[str, Any]], quiet: bool) -> None:
    for result in results:
        for mistake in result["errors"]:
            print_problem(mistake["text"])
        count = len(result["errors"])
        if count:
            print_problem(f"{result['source']}: {count} mistake{'s' if count > 1 else ''}")
        elif not quiet:
            typer.echo(f"{result['source']}: holds ({', '.join(result['modifiers']) or 'no modifiers'})")
