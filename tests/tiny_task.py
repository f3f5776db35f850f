"""A task that trains in a fraction of a second, for `paredown run --task tiny_task:task`."""

import os
import signal

import torch
from torch import nn

from paredown import Task

RECIPE = """
recipe: 1
name: tiny
run: {epochs: 4}
variables: {sparsity: 0.5}
modifiers:
  prune: {type: magnitude_pruning, start: 1, end: 3, every: 0.5, final_sparsity: "${variables.sparsity}"}
"""


class Batches:
    """Eight batches in an order that torch's generator draws."""

    def __init__(self, seed):
        self.seed = seed

    def __len__(self):
        return 8

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed)
        x = torch.randn(128, 6, generator=generator)
        y = (x.sum(1) > 0).long()
        for chosen in torch.randperm(128).chunk(8):
            yield x[chosen], y[chosen]


def task():
    def accuracy(model):
        model.eval()
        x = torch.randn(400, 6, generator=torch.Generator().manual_seed(1))
        return (model(x).argmax(-1) == (x.sum(1) > 0)).float().mean().item()

    return Task(
        name="signs of sums",
        build_model=lambda: nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2)),
        train_loader=Batches(0),
        evaluate=accuracy,
        loss=nn.functional.cross_entropy,
        optimizer=lambda model: torch.optim.SGD(model.parameters(), 0.02, momentum=0.9),
        scheduler=lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps + 1),
        example_inputs=(torch.zeros(16, 6),),
        dense_epochs=2,
    )


def failing():
    """Fails for a recipe that prunes a lot: the evaluation raises."""
    return _replaced(_raise)


def diverging():
    """Has no accuracy for a recipe that prunes a lot."""
    return _replaced(lambda: torch.tensor(float("nan")))


def dying():
    """Its process is killed where a recipe prunes a lot."""
    return _replaced(lambda: os.kill(os.getpid(), signal.SIGKILL))


class Named(nn.Module):
    """Named arguments, a loss where labels are given, and outputs in a mapping, as models of transformers have."""

    def __init__(self):
        super().__init__()
        self.net = task().build_model()

    def forward(self, x, labels=None):
        logits = self.net(x)
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}


def named_arguments():
    """Batches are mappings, the model has the loss, and the cross-entropy, of which less is better, decides."""
    import dataclasses

    plain = task()
    batches = [{"x": x, "labels": y} for x, y in plain.train_loader]

    def evaluate(model):
        x = torch.randn(400, 6, generator=torch.Generator().manual_seed(1))
        logits, labels = model.eval()(x)["logits"], (x.sum(1) > 0).long()
        wrong = (logits.argmax(-1) != labels).float().mean()
        return {"perplexity": nn.functional.cross_entropy(logits, labels).exp().item(), "error": wrong}

    return dataclasses.replace(
        plain,
        build_model=Named,
        train_loader=batches,
        loss=None,
        evaluate=evaluate,
        metrics={"perplexity": "min", "error": {"goal": "min", "unit": "%", "scale": 100}},
        example_inputs={"x": torch.zeros(16, 6)},
    )


def _replaced(act):
    import dataclasses

    plain = task()

    def evaluate(model):
        if sum((p == 0).float().mean().item() for p in model.parameters() if p.dim() == 2) > 1.7:
            return act()
        return plain.evaluate(model)

    return dataclasses.replace(plain, evaluate=evaluate)


def _raise():
    raise ValueError("the evaluation <failed> here\nsecond line")
