"""What compressed models are worth in an engine: bytes, CPU time and noise of their files, beside the engine's tools.

    python benchmarks/engines.py                      all networks in all engines, about twenty minutes
    python benchmarks/engines.py --engine openvino    in one
    python benchmarks/engines.py --net MiniLM         one network
    python benchmarks/engines.py --refusals           whether forty small trained networks are exported at all
    python benchmarks/engines.py --quick              the CNN alone, or three small networks: to see that it runs

Networks: a CNN, a transformer encoder and an LSTM with random weights, EfficientNet-Lite0 and MiniLM with those in
their packages. Each is written in floating point, quantized in several ways, and by onnxruntime.quantization (`tool`)
or NNCF, where they are installed; executorch and inductor have no tool beside them. A row: the bytes and the CPU time
(one thread, in turns, batches of 1 and of 16) over those of the float file, the signal to quantization noise against
the unquantized model on 48 samples, the share of the layers that are computed in integers, and whether the file was
mended for this processor.

Exits with 1 where a file is refused, or slower than the float one, or slower than that of the engine's own tool by more
than 5%, or noisier than that by more than 1 dB. 5% is also what two measurements of one file may be apart.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from engine_nets import NETS, Inputs, Net, batches, small_nets
from harness import Table, command_line, one_quiet_thread, verdict
from torch import Tensor, nn

import paredown
from paredown import ExportError, Recipe, ScheduledManager
from paredown.framework.engine.registry import engine_called, engines
from paredown.framework.engine.timing import latencies
from paredown.integrations.engines.onnxruntime import OnnxSession
from paredown.integrations.export.calling import arrays_by_name

SLOWER, NOISIER = 1.05, 1.0
ENGINES = ("onnxruntime", "openvino", "executorch", "inductor")
BATCHES = (1, 16)
KINDS: Mapping[str, Mapping[str, Any]] = {
    "static int8": {"type": "static_quantization"},
    "static 6 bits": {"type": "static_quantization", "weights": {"bits": 6}},
    "dynamic int8": {"type": "dynamic_quantization"},
    "weights 4 bits": {"type": "weight_quantization", "weights": {"bits": 4, "group_size": 32}},
}
QUICK = {"static int8": KINDS["static int8"]}
#: no kernel of OpenVINO quantizes inputs as they come
NOT_IN = {"openvino": {"dynamic int8"}}


@dataclass
class File:
    """A file of a network: what is in its row."""

    kind: str
    path: Path
    bytes: int
    share: float | None = None
    told: str = ""
    decibels: float = math.nan
    times: dict[int, float] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print the table; the exit status."""
    options = _options().parse_args(arguments)
    one_quiet_thread()
    if options.refusals:
        return verdict(list(_refusals(options.engine, *((3, 1) if options.quick else (40, 5)))))
    names = options.net or (["CNN"] if options.quick else list(NETS))
    numbers = (("bytes", ">7.3f"), ("time at 1", ">11.2f"), ("at 16", ">8.2f"), ("dB", ">8.1f"), ("integer", ">9"))
    table = Table(("network", "<20"), ("engine", "<13"), ("file", "<16"), *numbers, ("  ", "<"))
    short: list[str] = []
    if "openvino" in options.engine and importlib.util.find_spec("nncf") is None:
        print("NNCF: not installed, so OpenVINO has no tool beside it; pip install nncf")
    for name in names:
        build, module, install = NETS[name]
        if importlib.util.find_spec(module) is None:
            print(f"{name}: not installed; pip install --no-deps {install}")
            continue
        net = build()
        for engine in options.engine:
            short += _in_engine(table, net, engine, options.quick)
    return 0 if options.quick else verdict(short)


def _options() -> argparse.ArgumentParser:
    parser = command_line(__doc__, quick="little, and no promises", refusals="count the exports that are refused")
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--net", nargs="+", choices=list(NETS))
    return parser


def _in_engine(table: Table, net: Net, engine: str, quick: bool) -> Iterator[str]:
    """Print the rows of a network in an engine; what it falls short of."""
    missing = engines()[engine].missing()
    if missing is not None:
        print(missing)
        return
    with tempfile.TemporaryDirectory() as folder:
        files, refused = _files(net, engine, Path(folder), QUICK if quick else KINDS)
        yield from (f"{net.name} in {engine}, {kind}: {told}" for kind, told in refused.items())
        if "float" not in files:
            return
        _measure(net, engine, files, repetitions=4 if quick else 15)
        dense = files["float"]
        for file in files.values():
            times = [file.times[batch] / dense.times[batch] for batch in BATCHES]
            share = "" if file.share is None else f"{file.share:.0%}"
            table.row(net.name, engine, file.kind, file.bytes / dense.bytes, *times, file.decibels, share, file.told)
        yield from (f"{net.name} in {engine}, {told}" for told in _shortfalls(files))


def _files(
    net: Net, engine: str, folder: Path, kinds: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, File], dict[str, str]]:
    """The files of a network by their kinds, and why others were refused."""
    files, refused = {}, {}
    recipes: dict[str, Mapping[str, Any] | None] = {"float": None, **kinds}
    for kind, modifier in recipes.items():
        if kind in NOT_IN.get(engine, ()):
            continue
        try:
            files[kind] = _ours(net, engine, kind, modifier, folder)
        except ExportError as error:
            refused[kind] = f"refused: {str(error).splitlines()[0]}"
            print(f"{net.name}, {kind}: {error}")
    peers = TOOLS.get(engine)
    made = peers(net, files["float"].path, folder) if peers is not None and "float" in files else ()
    return {**files, **{file.kind: file for file in made}}, refused


def _ours(net: Net, engine: str, kind: str, modifier: Mapping[str, Any] | None, folder: Path) -> File:
    model = copy.deepcopy(net.model)
    if modifier is not None:
        quantize_(model, _fitting(modifier, model), engine, batches(net.calibration))
    path = folder / f"{kind.replace(' ', '-')}{engine_called(engine).suffix}"
    made = paredown.export(
        model, net.example(2), path, engine=engine, data=batches(net.compared), repetitions=0, allow_slower=True
    )
    return File(kind, path, made.bytes, made.integer_share, "  mended" if made.mended else "")


def quantize_(model: nn.Module, modifier: Mapping[str, Any], engine: str, data: Sequence[Any]) -> None:
    """Quantize a model for an engine with what a modifier says."""
    recipe = {"recipe": 1, "run": {"engine": engine}, "modifiers": {"quantize": dict(modifier)}}
    ScheduledManager(Recipe.load(recipe)).apply(model, data=data, example_inputs=data[0])


def _fitting(modifier: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
    """A modifier that leaves out the layers whose weights an output channel do not make whole groups."""
    size = modifier.get("weights", {}).get("group_size")
    if size is None:
        return modifier
    layers = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    ragged = [name for name, layer in layers.items() if layer.weight[0].numel() % size]
    return {**modifier, "ignore": ragged} if ragged else modifier


def _tool_files(net: Net, path: Path, folder: Path) -> Iterator[File]:
    """What onnxruntime.quantization makes of the float file: static (per channel, Q and DQ) and dynamic."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = folder / "prepared.onnx"
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    static, dynamic = folder / "tool-static.onnx", folder / "tool-dynamic.onnx"
    form = quantization.QuantFormat.QDQ
    reader = calibration_reader(quantization, path, batches(net.calibration))
    quantization.quantize_static(str(prepared), str(static), reader, quant_format=form, per_channel=True)
    quantization.quantize_dynamic(str(prepared), str(dynamic))
    for kind, made in (("tool, static", static), ("tool, dynamic", dynamic)):
        yield File(kind, made, made.stat().st_size, told="  onnxruntime.quantization")


def calibration_reader(quantization: Any, path: Path, data: Sequence[Inputs]) -> Any:
    """Batches as onnxruntime's tool reads them."""
    names = OnnxSession(path, 1, {}).names
    feeds = iter([arrays_by_name(batch, names) for batch in data])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Any:
            return next(feeds, None)

    return Reader()


def _nncf_files(net: Net, path: Path, folder: Path) -> Iterator[File]:
    """What NNCF makes of the float file for OpenVINO, where it is installed."""
    if importlib.util.find_spec("nncf") is None:
        return
    import nncf
    import openvino

    model = openvino.Core().read_model(path)
    names = [each.get_any_name() for each in model.inputs]
    data = [{name: batch[name].numpy() for name in names} for batch in batches(net.calibration)]
    kind = nncf.ModelType.TRANSFORMER if net.name in ("encoder", "MiniLM") else None
    made = nncf.quantize(model, nncf.Dataset(data), model_type=kind)
    written = folder / "nncf.xml"
    openvino.save_model(made, written, compress_to_fp16=False)
    yield File("tool, static", written, engine_called("openvino").bytes(written), told="  NNCF")


#: what writes files for an engine beside paredown
TOOLS: Mapping[str, Callable[[Net, Path, Path], Iterable[File]]] = {
    "onnxruntime": _tool_files,
    "openvino": _nncf_files,
}


def _measure(net: Net, engine: str, files: Mapping[str, File], repetitions: int) -> None:
    """Fill in the noise and the times of files."""
    sessions = {kind: engine_called(engine).open(file.path) for kind, file in files.items()}
    with torch.no_grad():
        wanted = [_first(net.model(**batch)) for batch in batches(net.compared)]
    for kind, session in sessions.items():
        got = [session.run(batch)[0] for batch in batches(net.compared)]
        files[kind].decibels = decibels(torch.cat(wanted), torch.cat(got))
    for batch in BATCHES:
        for kind, latency in latencies(sessions, net.example(batch), repetitions).items():
            files[kind].times[batch] = latency.median


def _first(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


def decibels(want: Tensor, got: Tensor) -> float:
    """The squares of what is wanted over those of what is missing, in dB."""
    return float(10 * torch.log10(want.double().square().sum() / (want.double() - got).square().sum()))


def _shortfalls(files: Mapping[str, File]) -> Iterator[str]:
    dense = files["float"]
    for kind, own in ((kind, files[kind]) for kind in KINDS if kind in files):
        for batch in BATCHES:
            ratio = own.times[batch] / dense.times[batch]
            if ratio > SLOWER:
                yield f"{kind}: {ratio:.2f} of the float file's time at batch {batch}"
        peer = files.get(f"tool, {kind.removesuffix(' int8')}")
        if peer is not None:
            yield from _behind(own, peer)


def _behind(own: File, peer: File) -> Iterator[str]:
    for batch in BATCHES:
        ratio = own.times[batch] / peer.times[batch]
        if ratio > SLOWER:
            yield f"{own.kind}: {ratio:.2f} of the time of the engine's tool at batch {batch}"
    if own.decibels < peer.decibels - NOISIER:
        yield f"{own.kind}: {own.decibels:.1f} dB, the engine's tool {peer.decibels:.1f} dB"


def _refusals(names: Iterable[str], nets: int, examples: int) -> Iterator[str]:
    """Quantize small trained networks and export each with several example batches; those that are refused."""
    for engine in names:
        count = refused = mended = 0
        for name, model, drawn in small_nets(nets):
            before = refused
            dynamic = name.startswith("LSTM") and engine == "onnxruntime"
            quantize_(model, KINDS["dynamic int8" if dynamic else "static int8"], engine, [(x,) for x in drawn[:4]])
            for number, x in enumerate(islice(drawn, 4, 4 + examples)):
                count += 1
                told, was_mended = _export(model, x, engine)
                mended += was_mended
                if told is not None:
                    refused += 1
                    yield f"{name} in {engine}, example {number}: {told}"
            print(f"{name} in {engine}: {refused - before} of {examples} refused", flush=True)
        print(f"{engine}: {count} exports of {nets} networks, {refused} refused, {mended} mended", flush=True)


def _export(model: nn.Module, x: Tensor, engine: str) -> tuple[str | None, bool]:
    """Why an export is refused, and whether it was mended; nothing but the example inputs is given."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{engine_called(engine).suffix}"
        try:
            made = paredown.export(model, (x,), path, engine=engine, repetitions=0)
        except ExportError as error:
            return str(error).splitlines()[0], False
        return None, made.mended


if __name__ == "__main__":
    sys.exit(main())
