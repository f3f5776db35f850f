"""Kernels of 3 x 3 decomposed to half of their entries: error, time and memory beside tensorly.

    python benchmarks/decomposition.py           (about two minutes)
    python benchmarks/decomposition.py --all     the sum of rank-one terms of 512 channels by tensorly too (minutes)
    python benchmarks/decomposition.py --quick   small kernels, once each, to see that it runs

Each kernel is a planted one of low rank with noise. Both sides work on float32; tensorly with its defaults. Each
measurement is made in a process of its own, in turns: the time is the least of some, the memory what the process's peak
rises by. The table has paredown's time and error, and tensorly's as multiples of them.

Exits with 1 unless Tucker-2 at 512 channels is 5 times faster and the sum of rank-one terms (CP) at 256 10 times, and
no error is above tensorly's.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from harness import Table, command_line, in_turns, printed_json, verdict, wall_seconds
from peak_memory import peak_of
from torch import Tensor

SIZES = (64, 128, 256, 512)
QUICK = (16,)
METHODS = ("svd", "tucker", "tensor train", "cp")
NOISE = 1.001
#: method and channels: how many times faster it has to be
ASKED = {("tucker", 512): 5.0, ("cp", 256): 10.0}
REPETITIONS = 3

Decompose = Callable[[Tensor, int], Tensor]


def kernel(channels: int) -> Tensor:
    """(out, in, positions)."""
    generator = torch.Generator().manual_seed(0)
    output, inputs, positions = (torch.randn(size, channels, generator=generator) for size in (channels, channels, 9))
    planted = torch.stack([(output * place) @ inputs.T for place in positions], 2) / channels**0.5
    return planted + 0.3 * torch.randn(planted.shape, generator=generator)


def rank_of(method: str, channels: int) -> int:
    """The rank at which half of the entries are left."""
    entries = 9 * channels**2 / 2
    if method == "svd":
        return int(entries / (10 * channels))
    if method == "cp":
        return int(entries / (2 * channels + 9))
    return int((-2 * channels + (4 * channels**2 + 36 * entries) ** 0.5) / 18)


def ours(method: str) -> Decompose:
    from paredown.modifiers.decomposition.forms.canonical_polyadic import canonical_polyadic
    from paredown.modifiers.decomposition.forms.factorization import truncated_svd_factors
    from paredown.modifiers.decomposition.forms.tensor_train import tensor_train_kernel
    from paredown.modifiers.decomposition.forms.tucker import tucker2

    def svd(tensor: Tensor, rank: int) -> Tensor:
        left, right = truncated_svd_factors(tensor.flatten(1), rank)
        return (left @ right).view(tensor.shape)

    def cp(tensor: Tensor, rank: int) -> Tensor:
        found = canonical_polyadic(tensor, rank)
        return torch.einsum("or,ir,pr->oip", found.output, found.inputs, found.positions)

    def three(decompose: Any) -> Decompose:
        def product(tensor: Tensor, rank: int) -> Tensor:
            output, core, inputs = decompose(tensor[None], (rank, rank))
            return torch.einsum("goa,gabp,gbi->goip", output, core, inputs)[0]

        return product

    return {"svd": svd, "cp": cp, "tucker": three(tucker2), "tensor train": three(tensor_train_kernel)}[method]


def theirs(method: str) -> Decompose:
    import tensorly
    from tensorly.decomposition import parafac, partial_tucker, tensor_train

    tensorly.set_backend("pytorch")

    def svd(tensor: Tensor, rank: int) -> Tensor:
        u, s, v = tensorly.tenalg.svd_interface(tensor.flatten(1), n_eigenvecs=rank)
        return ((u * s) @ v).view(tensor.shape)

    def cp(tensor: Tensor, rank: int) -> Tensor:
        return tensorly.cp_to_tensor(parafac(tensor, rank, init="random", random_state=0))

    def tucker(tensor: Tensor, rank: int) -> Tensor:
        (core, factors), _ = partial_tucker(tensor, rank=[rank, rank], modes=[0, 1])
        return tensorly.tenalg.multi_mode_dot(core, factors, modes=[0, 1])

    def train(tensor: Tensor, rank: int) -> Tensor:
        found = tensor_train(tensor.permute(1, 2, 0), [1, rank, rank, 1])
        return tensorly.tt_to_tensor(found).permute(2, 0, 1)

    return {"svd": svd, "cp": cp, "tucker": tucker, "tensor train": train}[method]


def measured(who: str, method: str, channels: int) -> dict[str, float]:
    """Seconds, megabytes and relative error, in this process."""
    decompose, tensor, rank = (ours if who == "ours" else theirs)(method), kernel(channels), rank_of(method, channels)
    decompose(kernel(8), 2)
    products, peaks = [], []
    seconds = wall_seconds(lambda: peaks.append(peak_of(lambda: products.append(decompose(tensor, rank)))))
    error = float((products[0] - tensor).norm() / tensor.norm())
    return {"seconds": seconds, "memory": peaks[0] / 2**20, "error": error}


def in_a_process(who: str, method: str, channels: int) -> dict[str, float]:
    found: dict[str, float] = printed_json([sys.executable, __file__, "--one", who, method, str(channels)])
    return found


def side_by_side(method: str, channels: int, repetitions: int) -> tuple[dict[str, float], dict[str, float]]:
    """Of ours and of theirs the least time and memory of several turns."""
    both = {who: functools.partial(in_a_process, who, method, channels) for who in ("ours", "theirs")}
    one, other = (
        {key: min(turn[key] for turn in turns) for key in turns[0]} for turns in in_turns(both, repetitions).values()
    )
    return one, other


def main() -> int:
    parser = command_line(__doc__, all="CP of 512 channels by tensorly too", quick="small kernels")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        who, method, channels = options.one
        print(json.dumps(measured(who, method, int(channels))))
        return 0
    return verdict(compared(QUICK if options.quick else SIZES, options.all))


def compared(sizes: Sequence[int], everything: bool) -> list[str]:
    """Print the table; what was asked for and is not so."""
    about = (("method", "<14"), ("channels", ">9"), ("rank", ">6"))
    spent = (("seconds", ">10.4f"), ("theirs", ">9"), ("MB", ">8.0f"), ("theirs", ">9.0f"))
    table = Table(*about, *spent, ("error", ">10.4f"), ("theirs", ">10.4f"))
    short: list[str] = []
    for method in METHODS:
        for channels in sizes:
            what = (method, channels, rank_of(method, channels))
            if method == "cp" and channels == 512 and not everything:
                mine = in_a_process("ours", method, channels)
                table.row(*what, mine["seconds"], "-", mine["memory"], "-", mine["error"], "-")
                continue
            once = (method == "cp" and channels > 128) or sizes is QUICK
            mine, other = side_by_side(method, channels, 1 if once else REPETITIONS)
            times = f"x{other['seconds'] / mine['seconds']:.1f}"
            table.row(*what, mine["seconds"], times, mine["memory"], other["memory"], mine["error"], other["error"])
            short += shortfalls(method, channels, mine, other)
    return short


def shortfalls(method: str, channels: int, mine: dict[str, float], other: dict[str, float]) -> list[str]:
    asked, found = ASKED.get((method, channels), 0.0), []
    if other["seconds"] < asked * mine["seconds"]:
        found.append(f"{method} at {channels}: {asked:g} times faster was asked for")
    if mine["error"] > NOISE * other["error"]:
        found.append(f"{method} at {channels}: its error is above tensorly's")
    return found


if __name__ == "__main__":
    sys.exit(main())
