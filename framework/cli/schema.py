"""`paredown schema`: print the JSON Schema of recipes, for editors."""

from __future__ import annotations

import typer

from paredown.framework.cli.console import Output, print_json

__all__ = ["register", "schema"]

EXAMPLES = """\
[bold]Examples[/bold]

paredown schema --output recipe.schema.json

Then, as the first line of a recipe: # yaml-language-server: $schema=recipe.schema.json
"""


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(epilog=EXAMPLES)(schema)


def schema(output: Output = None) -> None:
    """Print the JSON Schema of recipes: completion and hover text in editors."""
    from paredown.framework.recipe import Recipe

    print_json(Recipe.schema(), output)
