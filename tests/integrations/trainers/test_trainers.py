"""Trainers that wrap the model in DistributedDataParallel by themselves: two processes end as a plain loop on all data."""

import pytest
import torch
from trainers import FOUR_FAMILIES
from two_processes import weights_of_script

FIRST = """
import os, sys, torch
from torch import nn
from sample_models import mlp, batches
from trainers import EPOCHS, optimizer_of
torch.set_num_threads(1)
rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
DATA = batches(10)

class Own(torch.utils.data.Dataset):  # each process takes every second sample of a batch
    def __len__(self):
        return len(DATA)
    def __getitem__(self, index):
        x, y = DATA[index]
        return x[rank::world], y[rank::world]

loader = torch.utils.data.DataLoader(Own(), batch_size=None)

def keep(model):
    if rank == 0:
        torch.save(model.state_dict(), "weights.pt")
"""
PLAIN = """
from paredown import ScheduledManager
model = mlp()
net = nn.parallel.DistributedDataParallel(model) if world > 1 else model
optimizer = optimizer_of(net)
manager = ScheduledManager.from_yaml("recipe.yaml")
manager.modify(net, optimizer, 10)
for _ in range(EPOCHS):
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
manager.finalize()
keep(model)
"""
LIGHTNING = """
import lightning.pytorch as pl
from paredown.integrations.lightning import ParedownCallback

class Lit(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = mlp()
    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])
    def configure_optimizers(self):
        return optimizer_of(self)

lit, callback = Lit(), ParedownCallback("recipe.yaml", module="net")
pl.Trainer(max_epochs=EPOCHS, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False,
           enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
           callbacks=[callback]).fit(lit, loader)
keep(lit.net)
"""
ACCELERATE = """
import accelerate
from paredown import ScheduledManager
from paredown.integrations.accelerate import modify
accelerator = accelerate.Accelerator(cpu=True)
model = mlp()
net, optimizer = accelerator.prepare(model, optimizer_of(model))
manager = ScheduledManager.from_yaml("recipe.yaml")
modify(accelerator, manager, net, optimizer, loader)
for _ in range(EPOCHS):
    for x, y in loader:
        optimizer.zero_grad()
        accelerator.backward(nn.functional.cross_entropy(net(x), y))
        optimizer.step()
manager.finalize()
keep(accelerator.unwrap_model(net))
"""
TRAINER = """
import transformers
from paredown.integrations.huggingface import ParedownCallback

class Classifier(nn.Sequential):
    def forward(self, x, labels):
        logits = super().forward(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

class Plain(transformers.Trainer):
    def get_train_dataloader(self):
        return torch.utils.data.DataLoader(Own(), batch_size=None, collate_fn=lambda pair: dict(zip(("x", "labels"), pair)))
    def create_optimizer(self, *args):
        self.optimizer = optimizer_of(self.model)
        return self.optimizer
    def create_scheduler(self, *args, **kwargs):
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)
        return self.lr_scheduler

model = Classifier(*mlp())
args = transformers.TrainingArguments(
    "out", num_train_epochs=EPOCHS, report_to=[], use_cpu=True, disable_tqdm=True, max_grad_norm=0, save_strategy="no")
Plain(model, args, train_dataset=Own(), callbacks=[ParedownCallback("recipe.yaml")]).train()
keep(model)
"""
RECIPE = {
    **FOUR_FAMILIES,
    "modifiers": {
        "svd": {**FOUR_FAMILIES["modifiers"]["svd"], "targets": ["4"]},
        "prune": {**FOUR_FAMILIES["modifiers"]["prune"], "targets": ["0", "2"]},
        "quantize": {**FOUR_FAMILIES["modifiers"]["quantize"], "targets": ["0", "2"]},
        "distill": FOUR_FAMILIES["modifiers"]["distill"],
    },
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return weights_of_script(tmp_path_factory.mktemp("one") / "process", FIRST + PLAIN, RECIPE, processes=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "script"), [("lightning", LIGHTNING), ("accelerate", ACCELERATE), ("transformers", TRAINER)]
)
def test_structure_and_weights_are_those_of_one_process(name, script, alone, tmp_path):
    """A layer is decomposed in the middle of the run, while the trainer's wrapper holds the model."""
    pytest.importorskip(name)
    found = weights_of_script(tmp_path / name, FIRST + script, RECIPE)
    assert list(found) == list(alone)
    for key, value in alone.items():
        assert torch.allclose(found[key].double(), value.double(), atol=1e-5), key
        assert torch.equal(found[key] == 0, value == 0), key
