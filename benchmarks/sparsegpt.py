"""Half of the weights of SmolLM2-135M: perplexity, time and memory of pruning by magnitude, Wanda and SparseGPT.

    python benchmarks/sparsegpt.py --llmcompressor /path/to/other/venv/bin/python     (half an hour)
    python benchmarks/sparsegpt.py --quick           a tiny random model, to see that it runs

Model, text and measurement are those of benchmarks/gptq.py. Every Linear but the head loses half of its weights: of the
whole layer (magnitude and SparseGPT: of blocks of 128 inputs; Wanda: of each output), or 2 of every 4 along the inputs.
"updated" chooses the weights that stay anew by least squares. Seconds of CPU time are told of all layers, and of
one; paredown's memory holds the masks that keep zeros in training, a byte a weight.

Exits with 1 where Wanda's or SparseGPT's perplexity is above half of plain magnitude's, where SparseGPT's is not below
Wanda's, or where either is worse than llm-compressor's by more than 5% or takes longer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from gptq import Row, compress_measured, in_a_process, opened, perplexity, run
from torch import Tensor, nn

NOISE = 1.05
STRUCTURES = ("50%", "2:4")
METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {},
    "wanda": {"type": "wanda_pruning"},
    "wanda, updated": {"type": "wanda_pruning", "update_weights": True},
    "sparsegpt": {"type": "sparsegpt"},
    "sparsegpt, updated": {"type": "sparsegpt", "update_weights": True},
}
PEERS = {"llm-compressor wanda": "wanda", "llm-compressor sparsegpt": "sparsegpt"}
HEAD = "lm_head"

Compress = Callable[[nn.Module, Tensor], object]


def by_magnitude(structure: str) -> Compress:
    """The smallest weights of each layer, or of every four."""
    from paredown.modifiers.pruning.masks.apply import prune_smallest_
    from paredown.modifiers.pruning.scoring.units import Pattern

    def compress(model: nn.Module, calibration: Tensor) -> None:
        for layer in pruned_layers(model):
            weight = layer.weight.detach()
            if structure == "2:4":
                weight.masked_fill_(Pattern(2, 4).removable(weight.abs()), 0)
            else:
                prune_smallest_([weight], weight.numel() // 2)

    return compress


def with_paredown(fields: dict[str, Any], structure: str) -> Compress:
    from paredown import Recipe, ScheduledManager

    class Unreported(ScheduledManager):
        def report(self, *_: Any, **__: Any) -> Any:
            """`apply` ends with a report, which packs the whole model to tell its size: nothing to time here."""

    goal = {"structure": "2:4"} if structure == "2:4" else {"final_sparsity": 0.5}
    modifier = {**fields, **goal, "masks": "compact", "targets": ["Linear"], "ignore": [HEAD]}
    recipe = Recipe.load({"recipe": 1, "name": "half", "modifiers": {"prune": modifier}})

    def compress(model: nn.Module, calibration: Tensor) -> object:
        return Unreported(recipe).apply(model, data=[{"input_ids": sample[None]} for sample in calibration])

    return compress


def with_llmcompressor(method: str, structure: str) -> Compress:
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier

    kind = SparseGPTModifier if method == "sparsegpt" else WandaPruningModifier
    pattern = "2:4" if structure == "2:4" else "0:0"
    modifier = kind(
        sparsity=0.5, mask_structure=pattern, targets=["Linear"], ignore=[f"re:{HEAD}.*"]
    )  # it sees "lm_head."

    def compress(model: nn.Module, calibration: Tensor) -> object:
        samples = {"input_ids": calibration.tolist(), "attention_mask": torch.ones_like(calibration).tolist()}
        count, length = calibration.shape
        sizes = {"num_calibration_samples": count, "max_seq_length": length}
        return oneshot(model=model, dataset=Dataset.from_dict(samples), recipe=modifier, **sizes)

    return compress


def pruned_layers(model: nn.Module) -> list[nn.Linear]:
    return [layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name != HEAD]


def row(name: str, folder: Path) -> Row:
    """One row's measurement, in this process."""
    model, calibration, test = opened(folder)
    result: Row = {}
    if name != "dense":
        structure, method = name.split(" ", 1)
        compress = compression(method, structure)
        compress_measured(lambda: compress(model, calibration), result)
        result["layers"] = len(pruned_layers(model))
    total = sum(layer.weight.numel() for layer in pruned_layers(model))
    zeros = sum(int((layer.weight == 0).sum()) for layer in pruned_layers(model))
    return {**result, "zeros": zeros / total, "perplexity": perplexity(model, test)}


def compression(method: str, structure: str) -> Compress:
    if method in PEERS:
        return with_llmcompressor(PEERS[method], structure)
    return by_magnitude(structure) if method == "magnitude" else with_paredown(METHODS[method], structure)


def told(name: str, found: Row) -> None:
    if "note" in found:
        print(f"{name:<30}{found['note']}", flush=True)
        return
    cost = " " * 30
    if "seconds" in found:
        cost = f"{found['seconds']:>10.1f}{found['seconds'] / found['layers']:>10.3f}{found['peak MB']:>10.0f}"
    print(f"{name:<30}{cost}{found['zeros']:>10.4f}{found['perplexity']:>12.2f}", flush=True)


def shortfalls(rows: dict[str, Row]) -> list[str]:
    """What was promised and is not kept."""
    losses = {name: found["perplexity"] for name, found in rows.items() if "perplexity" in found}
    found = []
    for structure in STRUCTURES:
        plain, wanda, sparsegpt = (losses[f"{structure} {method}"] for method in ("magnitude", "wanda", "sparsegpt"))
        if max(wanda, sparsegpt) > plain / 2:
            found.append(f"{structure}: wanda {wanda:.1f}, sparsegpt {sparsegpt:.1f}, and plain magnitude {plain:.1f}")
        if sparsegpt >= wanda:
            found.append(f"{structure}: sparsegpt {sparsegpt:.1f} is no better than wanda {wanda:.1f}")
        for peer, method in PEERS.items():
            found += behind(f"{structure} {method}", rows[f"{structure} {method}"], rows[f"{structure} {peer}"])
    return found


def behind(name: str, ours: Row, theirs: Row) -> list[str]:
    if "perplexity" not in theirs:
        return []
    return [
        f"{name}: {what} {ours[what]:.2f}, and llm-compressor {theirs[what]:.2f}"
        for what in ("seconds", "perplexity")
        if ours[what] > NOISE * theirs[what]
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    return run(__doc__, row, table, shortfalls, arguments)


def table(folder: Path, peer: str | None) -> dict[str, Row]:
    print(f"{'half of the weights':<30}{'seconds':>10}{'a layer':>10}{'peak MB':>10}{'zeros':>10}{'perplexity':>12}")
    rows: dict[str, Row] = {}
    for name in ("dense", *(f"{structure} {method}" for structure in STRUCTURES for method in (*METHODS, *PEERS))):
        theirs = name.split(" ", 1)[-1] in PEERS
        if theirs and peer is None:
            rows[name] = {"note": "not measured: --llmcompressor names no interpreter"}
        else:
            rows[name] = in_a_process(peer if theirs and peer else sys.executable, name, folder, __file__)
        told(name, rows[name])
    return rows


if __name__ == "__main__":
    sys.exit(main())
