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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptq import (
    Compress,
    Row,
    compress_measured,
    in_a_process,
    opened,
    perplexity,
    print_rows,
    run,
    with_llmcompressor,
    with_paredown,
)
from harness import Table
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


def half_pruned(fields: dict[str, Any], structure: str) -> dict[str, Any]:
    goal = {"structure": "2:4"} if structure == "2:4" else {"final_sparsity": 0.5}
    return {**fields, **goal, "masks": "compact", "targets": ["Linear"], "ignore": [HEAD]}


def pruning_of_llmcompressor(method: str, structure: str) -> Any:
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier

    kind = SparseGPTModifier if method == "sparsegpt" else WandaPruningModifier
    pattern = "2:4" if structure == "2:4" else "0:0"
    ignored = [f"re:{HEAD}.*"]  # it sees "lm_head."
    return kind(sparsity=0.5, mask_structure=pattern, targets=["Linear"], ignore=ignored)


def pruned_layers(model: nn.Module) -> list[nn.Linear]:
    return [layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name != HEAD]


def row(name: str, folder: Path) -> Row:
    """One row's measurement, in this process."""
    model, calibration, test = opened(folder)
    cost: Row = {}
    if name != "dense":
        structure, method = name.split(" ", 1)
        compress = compression(method, structure)
        cost = {**compress_measured(lambda: compress(model, calibration)), "layers": len(pruned_layers(model))}
    total = sum(layer.weight.numel() for layer in pruned_layers(model))
    zeros = sum(int((layer.weight == 0).sum()) for layer in pruned_layers(model))
    return {**cost, "zeros": zeros / total, "perplexity": perplexity(model, test)}


def compression(method: str, structure: str) -> Compress:
    if method in PEERS:
        return with_llmcompressor(pruning_of_llmcompressor(PEERS[method], structure))
    if method == "magnitude":
        return by_magnitude(structure)
    return with_paredown(half_pruned(METHODS[method], structure))


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
    return run(__doc__, row, told, shortfalls, arguments)


def told(folder: Path, peer: str | None) -> dict[str, Row]:
    spent = (("seconds", ">10.1f"), ("a layer", ">10.3f"), ("peak MB", ">10.0f"))
    table = Table(("half of the weights", "<30"), *spent, ("zeros", ">10.4f"), ("perplexity", ">12.2f"))

    def measure(name: str) -> Row:
        theirs = name.split(" ", 1)[-1] in PEERS
        return in_a_process(peer if theirs else sys.executable, name, folder, __file__)

    names = [f"{structure} {method}" for structure in STRUCTURES for method in (*METHODS, *PEERS)]
    return print_rows(table, ("dense", *names), measure, cells)


def cells(found: Row) -> tuple[Any, ...]:
    cost = ("", "", "")
    if "seconds" in found:
        cost = (found["seconds"], found["seconds"] / found["layers"], found["peak MB"])
    return *cost, found["zeros"], found["perplexity"]


if __name__ == "__main__":
    sys.exit(main())
