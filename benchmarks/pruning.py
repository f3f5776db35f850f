"""Pruning masks: the time and memory of choosing them, for every structure, and of holding them.

    python benchmarks/pruning.py            # 25M and 100M weights in 60 tensors, one thread; about three minutes
    python benchmarks/pruning.py --small    # seconds, and no promises

What held masks cost a training step, beside torch.nn.utils.prune and torch.ao.pruning: `benchmarks/overhead.py`.

Each measurement runs in a forked process of its own, in turns, and the medians are shown. Peak extra memory is what
the process's resident set (VmHWM, reset through /proc/self/clear_refs) rose above its size before the call, masks
aside; Python's tracemalloc would not see torch's memory. Allocations that the process still had mapped are not
counted; what is kept mapped after warming up on a small problem is about 1 MB. Linux only.

Exits with 1 where a promise is not kept: the whole update (select, mark, zero) at least 20 times as fast as
`torch.nn.utils.prune.global_unstructured`, extra memory at most 5% of the weights, a held mask at most 0.6 ns a weight.
"""

from __future__ import annotations

import functools
import multiprocessing
import statistics
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

import torch
from harness import Table, command_line, in_turns, verdict, wall_seconds
from peak_memory import peak_of
from torch import Tensor, nn
from torch.ao.pruning import WeightNormSparsifier  # type: ignore[attr-defined]
from torch.nn.utils import prune

from paredown import Recipe, ScheduledManager
from paredown.modifiers.pruning.masks.apply import MaskForm, apply_masks_, prune_smallest_

SPARSITY = 0.9
TENSORS = 60
ROWS = 48  # of each tensor
SPEEDUP, EXTRA_SHARE, HELD_NANOSECONDS = 20.0, 0.05, 0.6
NOISE = 1.15  # a machine that others use too

Weights = list[Tensor]
Method = Callable[[Weights], int]


def main(arguments: Sequence[str] | None = None) -> int:
    small = command_line(__doc__, small="1M weights, one repetition, no promises").parse_args(arguments).small
    sizes, repetitions = ([1_000_000], 1) if small else ([25_000_000, 100_000_000], 3)
    short = [line for size in sizes for line in benchmark(size, repetitions)]
    return 0 if small else verdict(short)


def benchmark(size: int, repetitions: int) -> list[str]:
    """Print the table for one size; what was promised and is not kept."""
    forks = {name: functools.partial(in_a_fork, method, size) for name, method in METHODS.items()}
    rows = in_turns(forks, repetitions)
    medians = {name: [statistics.median(column) for column in zip(*row, strict=True)] for name, row in rows.items()}
    slowest = medians["global_unstructured"][0]
    print(f"\n{size / 1e6:.0f}M float32 weights in {TENSORS} tensors to {SPARSITY:.0%}")
    print(f"one thread, medians of {repetitions}")
    columns = (("seconds", ">10.4f"), ("speed-up", ">10"), ("extra MB", ">10.1f"), ("of weights", ">12.1%"))
    table = Table(("update: select, mark, zero", "<28"), *columns)
    for name, (seconds, extra) in medians.items():
        table.row(name, seconds, f"{slowest / seconds:.1f}x", extra / 1e6, extra / size / 4)
    held = {form: held_cost(size, form) for form in ("fast", "compact")}
    print(*(f"held mask, {form}: {cost:.2f} ns a weight" for form, cost in held.items()), sep="\n", flush=True)
    seconds, extra = (max(medians[f"paredown, {form}"][column] for form in held) for column in (0, 1))
    promises = {
        f"{SPEEDUP:g} times as fast as global_unstructured": slowest / seconds >= SPEEDUP / NOISE,
        f"extra memory at most {EXTRA_SHARE:.0%} of the weights": extra <= EXTRA_SHARE * size * 4,
        f"a held mask at most {HELD_NANOSECONDS} ns a weight": max(held.values()) <= HELD_NANOSECONDS * NOISE,
    }
    return [f"{size / 1e6:.0f}M weights: {promise} was promised" for promise, kept in promises.items() if not kept]


def random_weights(size: int) -> Weights:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(ROWS, size // TENSORS // ROWS // 8 * 8, generator=generator) for _ in range(TENSORS)]


def paredown_update(form: MaskForm) -> Method:
    def update(weights: Weights) -> int:
        masks = prune_smallest_(weights, round(SPARSITY * sum(map(Tensor.numel, weights))), form=form)
        return sum(mask.numel() * mask.element_size() for mask in masks)

    return update


def torch_global_unstructured(weights: Weights) -> int:
    modules = [nn.Module() for _ in weights]
    for module, weight in zip(modules, weights, strict=True):
        module.weight = nn.Parameter(weight)
    prune.global_unstructured([(m, "weight") for m in modules], prune.L1Unstructured, amount=SPARSITY)
    return sum(weight.numel() * weight.element_size() for weight in weights)


def linear_layers(weights: Weights) -> nn.Sequential:
    """A model of layers with these weights themselves."""
    layers = [nn.Linear(each.shape[1], each.shape[0], bias=False, device="meta") for each in weights]
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight = nn.Parameter(weight)
    return nn.Sequential(*layers)


def paredown_structure(structure: object, scope: str = "global") -> Method:
    """An update by the modifier itself, when its window opens."""
    fields = {"type": "magnitude_pruning", "structure": structure, "scope": scope, "curve": "constant"}
    share = {} if isinstance(structure, str) and ":" in structure else {"final_sparsity": SPARSITY}

    def update(weights: Weights) -> int:
        modifiers = {"prune": {**fields, **share}}
        recipe = Recipe.load({"recipe": 1, "name": "masks", "run": {"epochs": 1}, "modifiers": modifiers})
        model = linear_layers(weights)
        ScheduledManager(recipe).modify(model, torch.optim.SGD(model.parameters(), 0.1), 1000)
        return sum(weight.numel() * weight.element_size() for weight in weights)

    return update


def torch_ao(shape: tuple[int, int], zeros: int) -> Method:
    def update(weights: Weights) -> int:
        model = linear_layers(weights)
        level = 1.0 if zeros < shape[0] * shape[1] else SPARSITY
        sparsifier = WeightNormSparsifier(sparsity_level=level, sparse_block_shape=shape, zeros_per_block=zeros)
        sparsifier.prepare(model, [{"tensor_fqn": f"{place}.weight"} for place in range(len(weights))])
        sparsifier.step()
        return sum(weight.numel() * weight.element_size() for weight in weights)

    return update


def torch_channels(weights: Weights) -> int:
    for layer in linear_layers(weights):
        prune.ln_structured(layer, "weight", SPARSITY, 2, 0)
    return sum(weight.numel() * weight.element_size() for weight in weights)


def kthvalue_on_a_copy(weights: Weights) -> int:
    magnitudes = torch.cat([weight.abs().flatten() for weight in weights])
    threshold = magnitudes.kthvalue(round(SPARSITY * len(magnitudes))).values
    masks = [weight.abs() > threshold for weight in weights]
    for weight, mask in zip(weights, masks, strict=True):
        weight.mul_(mask)
    return sum(mask.numel() for mask in masks)


METHODS: dict[str, Method] = {
    "paredown, fast": paredown_update("fast"),
    "paredown, compact": paredown_update("compact"),
    "kthvalue": kthvalue_on_a_copy,
    "global_unstructured": torch_global_unstructured,
    "paredown, local": paredown_structure("unstructured", "local"),
    "paredown, erk": paredown_structure("unstructured", "erk"),
    "paredown, lamp": paredown_structure("unstructured", "lamp"),
    "paredown, 2:4": paredown_structure("2:4"),
    "torch.ao, 2:4": torch_ao((1, 4), 2),
    "paredown, blocks 1 x 4": paredown_structure({"block": [1, 4]}),
    "torch.ao, blocks 1 x 4": torch_ao((1, 4), 4),
    "paredown, channels": paredown_structure("channel"),
    "ln_structured, channels": torch_channels,
}


def in_a_fork(method: Method, size: int) -> tuple[float, float]:
    """Seconds, and peak bytes beside weights and masks, of one call in a process of its own."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_measure, args=(method, size, sender))
    process.start()
    sender.close()
    result: tuple[float, float] = receiver.recv()
    process.join()
    return result


def _measure(method: Method, size: int, sender: Connection) -> None:
    torch.set_num_threads(1)
    method(random_weights(TENSORS * 1000))  # imports and warms up
    weights = random_weights(size)
    told: dict[str, float] = {}

    def update() -> None:
        told["masks"] = method(weights)

    def measure() -> None:
        told["seconds"] = wall_seconds(update)

    peak = peak_of(measure)
    sender.send((told["seconds"], max(0.0, peak - told["masks"])))


def held_cost(size: int, form: MaskForm, repetitions: int = 7) -> float:
    """Nanoseconds a weight for zeroing what is pruned, after an optimizer step."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    weights = random_weights(size)
    masks = prune_smallest_(weights, round(SPARSITY * size), form=form)
    times = [wall_seconds(lambda: apply_masks_(weights, masks)) for _ in range(repetitions)]
    torch.set_num_threads(threads)
    return statistics.median(times) / size * 1e9


if __name__ == "__main__":
    sys.exit(main())
