"""`paredown export`: the compressed model of a run as the file of an engine; `paredown compare`: layer by layer."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paredown.framework.cli.arguments import TaskName, wrong_use
from paredown.framework.cli.console import AsJson, Quiet, print_json

if TYPE_CHECKING:
    from paredown.framework.engine.exporting import Exported

__all__ = ["compare", "export", "exported", "register"]

EXPORT = """\
[bold]Examples[/bold]

paredown export runs/latest --task my_project.job:task --output model.onnx

paredown export runs/latest/checkpoint.pt --task my_project.job:task --engine openvino --output model.xml --zip

paredown export runs/latest --task my_project.job:task --output model.onnx --packed
"""
COMPARE = """\
[bold]Examples[/bold]

paredown compare runs/latest --task my_project.job:task --engine onnxruntime
"""

Source = Annotated[Path, typer.Argument(metavar="FOLDER|FILE", help="A run's folder, or a checkpoint.", exists=True)]
EngineName = Annotated[
    str | None, typer.Option("--engine", "-e", metavar="NAME", help="Default: the recipe's run.engine, or onnxruntime.")
]
File = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")]
Zip = Annotated[bool, typer.Option("--zip", help="Also write FILE.zip, and print both sizes.")]
Packed = Annotated[
    bool,
    typer.Option("--packed", help="Store zeros and few values in few bytes; the engine unpacks them when it opens it."),
]
Slower = Annotated[bool, typer.Option("--allow-slower", help="Accept a file slower than the float model's.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command(epilog=EXPORT)(export)
    app.command(epilog=COMPARE)(compare)


def export(
    source: Source,
    task: TaskName,
    output: File,
    engine: EngineName = None,
    archive: Zip = False,
    allow_slower: Slower = False,
    packed: Packed = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write the compressed model of a run for an engine; checked there, and measured beside the dense one."""
    from paredown.framework.experiments.exporting import zipped

    made = exported(source, task, output, engine, allow_slower=allow_slower, packed=packed)
    file = zipped(made) if archive else None
    if as_json:
        print_json({**_values(made), **({} if file is None else {"zip_bytes": file.stat().st_size})})
    elif not quiet:
        typer.echo(str(made))
        if file is not None:
            typer.echo(f"{file}: {file.stat().st_size:,} bytes zipped, {made.bytes:,} as it lies")


def compare(source: Source, task: TaskName, engine: EngineName = None, as_json: AsJson = False) -> None:
    """Compare the model of a run in an engine with the unquantized and the simulated one, layer by layer."""
    from paredown.framework.engine.comparison import table

    with tempfile.TemporaryDirectory() as folder:
        made = exported(source, task, Path(folder) / "model", engine, repetitions=0)
    if as_json:
        print_json(_values(made))
    else:
        typer.echo(f"{made.engine} {made.version}: {made.agreement}\n{table(made.layers)}")


def exported(source: Path, task: str, path: Path, engine: str | None, **options: Any) -> Exported:
    """Export what a run left; a wrong task or source is wrong use."""
    from paredown.framework.experiments.exporting import export_run
    from paredown.framework.experiments.task import load_task

    with wrong_use():
        return export_run(load_task(task), source, path, engine, **options)


def _values(made: Exported) -> dict[str, Any]:
    """An export as plain values: bytes, milliseconds of CPU time, decibels."""
    times = {"latency": made.latency, "float_latency": made.float_latency, "reference_latency": made.reference_latency}
    return {
        "path": str(made.path), "engine": made.engine, "version": made.version, "bytes": made.bytes,
        "float_bytes": made.float_bytes, "reference_bytes": made.reference_bytes,
        **{name: None if time is None else time.median for name, time in times.items()},
        "simulated_decibels": made.agreement.simulated_decibels, "engine_decibels": made.agreement.engine_decibels,
        **({} if made.packed is None else {"plain_bytes": made.packed.plain_bytes}),
        "layers": [vars(row) for row in made.layers], "operators": dict(made.operators), "remarks": list(made.remarks),
    }  # fmt: skip
