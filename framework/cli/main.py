"""The command `paredown`: all of its sub-commands in one app, and its exit codes.

Exit codes: 0 it holds, 1 it does not (an invalid recipe, a difference, a proof that fails), 2 wrong use, 130
interrupted.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from typing import Annotated

import typer

from paredown.framework.cli import (
    card,
    diff,
    export,
    plan,
    recipes,
    recommend,
    report,
    run,
    schema,
    sensitivity,
    sweep,
    validate,
    verify,
)
from paredown.framework.cli.console import print_problem
from paredown.framework.errors import ParedownError

__all__ = ["ENTRY_POINT_GROUP", "app", "main"]

#: the group of modules outside the framework that add a command: each has a ``register(app)``
ENTRY_POINT_GROUP = "paredown.commands"

HELP = "Compression of PyTorch models, written down as recipes."
EPILOG = "Exit codes: 0 it holds, 1 it does not, 2 wrong use, 130 interrupted."

app = typer.Typer(
    name="paredown",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


def _print_versions(wanted: bool) -> None:
    if wanted:
        from paredown.framework.report.reporter import versions

        typer.echo(", ".join(f"{name} {version}" for name, version in reversed(versions().items())))
        raise typer.Exit


@app.callback(help=HELP, epilog=EPILOG)
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the versions.", callback=_print_versions, is_eager=True)
    ] = False,
) -> None:
    """The options of the command itself."""


validate.register(app)
plan.register(app)
run.register(app)
report.register(app)
export.register(app)
sweep.register(app)
recommend.register(app)
sensitivity.register(app)
recipes.register(app)
diff.register(app)
card.register(app)
verify.register(app)
schema.register(app)


def _register_plug_ins() -> None:
    """Add the commands of other packages, and those of paredown's integrations."""
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            point.load().register(app)
        except Exception as error:  # the module of another package may fail in any way
            print_problem(f"the command {point.name!r} ({point.value}) is left out: {type(error).__name__}: {error}")


_register_plug_ins()


def main() -> int:
    """Run the command line; a user's mistake is a message and an exit code, never a traceback."""
    try:
        app()
    except ParedownError as error:
        print_problem(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
