"""The Lightning callback beside a plain loop with the two lines."""

import csv
from pathlib import Path

import pytest
import torch
from sample_models import conv_net, mlp, pruning, recipe_of, zeros
from torch import nn
from trainers import EPOCHS, FOUR_FAMILIES, LENGTH, data, furthest, optimizer_of, plain

import paredown
from paredown import Recipe
from paredown.framework.errors import CheckpointError, ScheduleError

pl = pytest.importorskip("lightning.pytorch")
from paredown.integrations.lightning import ParedownCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers:UserWarning",
    "ignore:.*isinstance.treespec, LeafSpec.*",
    "ignore:.*is smaller than the logging interval:UserWarning",
    "ignore:Checkpoint directory .* exists and is not empty:UserWarning",
    "ignore:.*environment variable .*:UserWarning",
)


class Lit(pl.LightningModule):
    def __init__(self, net=None):
        super().__init__()
        self.net = conv_net() if net is None else net

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return optimizer_of(self)


class Manual(Lit):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, index):
        optimizer = self.optimizers()
        loss = super().training_step(batch, index)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


def loader():
    return torch.utils.data.DataLoader(data(), batch_size=None)


def trainer(folder, *callbacks, epochs=EPOCHS, **more):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    more = {"logger": False, "enable_checkpointing": False, **more}
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=folder, callbacks=list(callbacks), **quiet, **more
    )


@pytest.mark.parametrize("accumulate", [1, 4])
def test_weights_are_those_of_a_plain_loop(accumulate, tmp_path):
    lit, callback = Lit(), ParedownCallback(FOUR_FAMILIES, module="net")
    run = trainer(tmp_path, callback, accumulate_grad_batches=accumulate)
    run.fit(lit, loader())
    assert furthest(lit.net, plain(accumulate)) == 0
    assert callback.manager.run.step == run.global_step == EPOCHS * -(-LENGTH // accumulate)
    assert callback.report.compressed.nonzeros < callback.report.dense.nonzeros


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_that_is_resumed_in_a_window_ends_the_same(accumulate, stop, tmp_path):
    steps = stop * -(-LENGTH // accumulate)
    more = {"accumulate_grad_batches": accumulate}

    class Halt(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            if trainer.global_step == steps:
                trainer.save_checkpoint(tmp_path / "half.ckpt")
                raise KeyboardInterrupt

    callback = ParedownCallback(FOUR_FAMILIES, module="net")
    with pytest.raises(SystemExit):
        trainer(tmp_path, callback, Halt(), **more).fit(Lit(), loader())
    lit, callback = Lit(), ParedownCallback(FOUR_FAMILIES, module="net")
    trainer(tmp_path, callback, **more).fit(lit, loader(), ckpt_path=tmp_path / "half.ckpt")
    assert furthest(lit.net, plain(accumulate)) == 0
    assert callback.manager.run.step == EPOCHS * -(-LENGTH // accumulate)


def test_a_teacher_kept_in_the_checkpoint_needs_no_old_model(tmp_path):
    callback = ParedownCallback(FOUR_FAMILIES, module="net", save_teacher=True)

    class Save(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    trainer(tmp_path, callback, Save()).fit(Lit(), loader())
    lit = Lit(conv_net(seed=9))
    callback = ParedownCallback(FOUR_FAMILIES, module="net", save_teacher=True)
    trainer(tmp_path, callback).fit(lit, loader(), ckpt_path=tmp_path / "half.ckpt")
    assert furthest(lit.net, plain()) == 0


def test_manual_optimization(tmp_path):
    lit, callback = Manual(), ParedownCallback(FOUR_FAMILIES, module="net")
    trainer(tmp_path, callback).fit(lit, loader())
    assert furthest(lit.net, plain()) == 0


def test_channels_go_before_the_optimizer_is_built(tmp_path):
    cut = {"type": "channel_pruning", "targets": ["stem"], "final_sparsity": 0.5, "round_to": 1}
    callback = ParedownCallback(recipe_of(EPOCHS, cut=cut), module="net", example_inputs=(data()[0][0],))
    lit = Lit()
    trainer(tmp_path, callback).fit(lit, loader())
    assert lit.net.stem.out_channels == 4
    assert callback.report.dense.parameters > callback.report.compressed.parameters


def test_a_compressed_checkpoint_is_tested_in_a_new_process(tmp_path):
    class Tested(Lit):
        def test_step(self, batch, index):
            self.log("loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]), batch_size=len(batch[1]))

    lit, callback = Tested(), ParedownCallback(FOUR_FAMILIES, module="net")
    run = trainer(tmp_path, callback)
    run.fit(lit, loader())
    run.save_checkpoint(tmp_path / "done.ckpt")
    here = run.test(lit, loader(), verbose=False)[0]["loss"]
    anew = trainer(tmp_path, ParedownCallback(FOUR_FAMILIES, module="net"))
    there = anew.test(Tested(), loader(), ckpt_path=tmp_path / "done.ckpt", verbose=False)[0]["loss"]
    assert there == pytest.approx(here, abs=1e-6)


def test_a_checkpoint_without_a_recipe_is_refused(tmp_path):
    dense = trainer(tmp_path, epochs=1)
    dense.fit(Lit(), loader())
    dense.save_checkpoint(tmp_path / "dense.ckpt")
    with pytest.raises(CheckpointError, match="written without this callback"):
        trainer(tmp_path, ParedownCallback(FOUR_FAMILIES, module="net")).fit(
            Lit(), loader(), ckpt_path=tmp_path / "dense.ckpt"
        )


def test_a_recipe_longer_than_the_training_is_refused(tmp_path):
    lit = Lit(mlp())
    before = [parameter.clone() for parameter in lit.parameters()]
    callback = ParedownCallback(recipe_of(5, prune=pruning(0.9)))
    with pytest.raises(ScheduleError, match=r"takes 5 epochs \(50 optimizer steps\).*stops after 3 \(30 steps\)"):
        trainer(tmp_path, callback, epochs=3).fit(lit, loader())
    assert all(torch.equal(a, b) for a, b in zip(before, lit.parameters(), strict=True))
    assert zeros(lit) == 0


def test_data_without_a_length_needs_a_length(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from data() * 5

    stream = torch.utils.data.DataLoader(Stream(), batch_size=None)
    callback = ParedownCallback(recipe_of(EPOCHS, prune=pruning(0.9)), module="net")
    with pytest.raises(ScheduleError, match="limit_train_batches"):
        trainer(tmp_path, callback, epochs=1).fit(Lit(), stream)
    callback = ParedownCallback(recipe_of(EPOCHS, prune=pruning(0.9)), module="net")
    trainer(tmp_path, callback, epochs=-1, max_steps=40).fit(Lit(), stream)
    assert callback.manager.run.clock.steps_per_epoch == 10
    assert callback.manager.done


class Accumulating(Manual):
    """Steps after every third batch, and after the last of an epoch."""

    def training_step(self, batch, index):
        optimizer = self.optimizers()
        self.manual_backward(Lit.training_step(self, batch, index) / 3)
        if index % 3 == 2 or index == LENGTH - 1:
            optimizer.step()
            optimizer.zero_grad()


def test_manual_accumulation_counts_the_modules_own_steps(tmp_path):
    lit, callback = Accumulating(), ParedownCallback(FOUR_FAMILIES, module="net", accumulate=3)
    trainer(tmp_path, callback).fit(lit, loader())
    assert callback.manager.run.clock.steps_per_epoch == 4
    assert furthest(lit.net, plain(3)) == 0


def test_an_epoch_is_that_of_the_data_where_only_steps_end_the_training(tmp_path):
    """Lightning has not loaded the data then when the training starts."""
    callback = ParedownCallback(recipe_of(2, prune=pruning(0.9, end=2)), module="net")
    with pytest.warns(UserWarning, match="trains on after the recipe has ended"):
        trainer(tmp_path, callback, epochs=-1, max_steps=50).fit(Lit(), loader())
    assert callback.manager.run.clock.steps_per_epoch == LENGTH


class Pair(pl.LightningModule):
    """Two networks with an optimizer each, which Lightning counts together."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.net, self.other = conv_net(), conv_net(seed=1)

    def training_step(self, batch, index):
        for net, optimizer in zip((self.net, self.other), self.optimizers(), strict=True):
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(net(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self):
        return optimizer_of(self.net), optimizer_of(self.other)


def test_of_several_optimizers_the_steps_of_one_count(tmp_path):
    callback = ParedownCallback(FOUR_FAMILIES, module="net")
    with pytest.raises(ScheduleError, match=r"stops after 2 \(20 steps\)"):
        trainer(tmp_path, callback, epochs=-1, max_steps=40).fit(Pair(), loader())
    pair, callback = Pair(), ParedownCallback(FOUR_FAMILIES, module="net")
    trainer(tmp_path, callback, epochs=-1, max_steps=80).fit(pair, loader())
    assert furthest(pair.net, plain()) == 0


def test_a_recipe_for_each_of_two_networks_and_their_checkpoint(tmp_path):
    def callbacks():
        recipe = recipe_of(EPOCHS, prune=pruning(0.5, targets=["body"]))
        return ParedownCallback(FOUR_FAMILIES, module="net"), ParedownCallback(recipe, module="other")

    class Save(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    whole, resumed = Pair(), Pair()
    trainer(tmp_path, *callbacks(), Save()).fit(whole, loader())
    trainer(tmp_path, *callbacks()).fit(resumed, loader(), ckpt_path=tmp_path / "half.ckpt")
    assert furthest(resumed, whole) == 0
    assert furthest(whole.net, plain()) == 0
    assert float((whole.other.body.weight == 0).float().mean()) == 0.5


def test_what_is_refused_when_training_starts_leaves_the_model_dense(tmp_path):
    svd = {"type": "svd_decomposition", "targets": ["head"], "rank": 2, "guard": "none"}
    lit = Lit()
    before = {name: tensor.clone() for name, tensor in lit.state_dict().items()}
    with pytest.raises(ScheduleError, match="takes 9 epochs"):
        trainer(tmp_path, ParedownCallback(recipe_of(9, svd=svd), module="net")).fit(lit, loader())
    assert {name: tensor.tolist() for name, tensor in lit.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in before.items()
    }


class Watched(Lit):
    def validation_step(self, batch, index):
        self.log("loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]), batch_size=len(batch[1]))

    test_step = validation_step


def test_the_best_checkpoint_is_tested_by_the_trainer_that_wrote_it(tmp_path):
    keep = pl.callbacks.ModelCheckpoint(tmp_path, "{epoch}", monitor="loss", save_top_k=-1)
    recipe = recipe_of(
        EPOCHS, prune=pruning(0.5, targets=["body"], start=0, end=1), quantize=FOUR_FAMILIES["modifiers"]["quantize"]
    )
    lit, run = Watched(), trainer(tmp_path, ParedownCallback(recipe, module="net"), keep, enable_checkpointing=True)
    run.fit(lit, loader(), loader())
    assert run.test(lit, loader(), ckpt_path="best", verbose=False)[0]["loss"] == pytest.approx(
        float(keep.best_model_score)
    )


def test_a_checkpoint_of_another_structure_is_refused_by_the_trainer_that_wrote_it(tmp_path):
    keep = pl.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    lit, run = (
        Watched(),
        trainer(tmp_path, ParedownCallback(FOUR_FAMILIES, module="net"), keep, enable_checkpointing=True),
    )
    run.fit(lit, loader(), loader())
    with pytest.raises(CheckpointError, match="with a new LightningModule, a new ParedownCallback"):
        run.test(lit, loader(), ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False)


DISTILL = {"type": "knowledge_distillation", "weight": 0.5, "temperature": 1.0}


def distilled(folder, *callbacks, **more):
    net, teacher = mlp(seed=1), mlp(seed=2)
    callback = ParedownCallback(recipe_of(2, distill=DISTILL), module="net", teacher=teacher)
    rows = [(torch.randn(4, 16), torch.randint(0, 4, (4,))) for _ in range(10)]
    trainer(folder, callback, *callbacks, epochs=2, **more).fit(
        module := Lit(net), torch.utils.data.DataLoader(rows, batch_size=None)
    )
    return module.net


def test_scheduled_accumulation_is_that_of_the_trainer(tmp_path):
    """Its one number is known before Lightning sets it: the same steps, the same weights."""
    scheduled = []
    for more in ({"accumulate_grad_batches": 4}, {"callbacks": pl.callbacks.GradientAccumulationScheduler({0: 4})}):
        callbacks = [more.pop("callbacks")] if "callbacks" in more else []
        scheduled.append(distilled(tmp_path, *callbacks, **more))
    assert furthest(*scheduled) < 1e-6


def test_accumulation_that_changes_is_refused(tmp_path):
    with pytest.raises(ScheduleError, match="accumulates over 1, 4 batches in different epochs"):
        distilled(tmp_path, pl.callbacks.GradientAccumulationScheduler({1: 4}))


class Scored(Lit):
    """Has a score that gets worse from epoch to epoch, as a model does that is pruned."""

    def on_train_epoch_end(self):
        self.log("score", float(self.current_epoch))


def early(folder, end, **more):
    """Trains with a checkpoint of the best score, and returns what Lightning keeps of it."""
    saving = pl.callbacks.ModelCheckpoint(folder, monitor="score", mode="min", filename="{epoch}", **more)
    callback = ParedownCallback(recipe_of(EPOCHS, prune=pruning(0.9, end=end)), module="net")
    trainer(folder, callback, saving, enable_checkpointing=True).fit(Scored(), loader())
    return saving


@pytest.mark.parametrize("kept", [1, 2, -1])
@pytest.mark.parametrize("end", [2, EPOCHS])
def test_the_best_checkpoint_is_one_that_reached_its_targets(kept, end, tmp_path):
    best = torch.load(early(tmp_path, end, save_top_k=kept).best_model_path, weights_only=True)
    assert best["epoch"] == end - 1
    weights = [value for value in best["state_dict"].values() if value.dim() > 1]
    assert sum(int((w == 0).sum()) for w in weights) >= 0.85 * sum(w.numel() for w in weights)


def test_the_files_of_early_checkpoints_go_by_lightnings_rules(tmp_path):
    early(tmp_path, 2, save_top_k=1)
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["epoch=1.ckpt"]


def test_a_run_that_goes_on_keeps_the_best_one_that_it_has(tmp_path):
    early(tmp_path, 2, save_top_k=1, save_last=True)
    saving = pl.callbacks.ModelCheckpoint(tmp_path, monitor="score", mode="min", filename="{epoch}")
    callback = ParedownCallback(recipe_of(EPOCHS, prune=pruning(0.9, end=2)), module="net")
    run = trainer(tmp_path, callback, saving, enable_checkpointing=True)
    run.fit(Scored(), loader(), ckpt_path=str(tmp_path / "epoch=1.ckpt"))
    assert saving.best_model_path.endswith("epoch=1.ckpt")


@pytest.mark.parametrize("module", ["net", ""])
def test_a_checkpoint_is_loaded_for_inference(module, tmp_path):
    smaller = recipe_of(
        EPOCHS,
        svd={"type": "svd_decomposition", "targets": ["*head"], "rank": 3, "start": 1, "guard": "none"},
        prune=pruning(0.6, end=3),
        quantize={"type": "quantization_aware_training", "start": 2, "weights": {"bits": 4}},
    )
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="last")
    lit, callback = Lit(), ParedownCallback(smaller, module=module)
    trainer(tmp_path, callback, saving, enable_checkpointing=True).fit(lit, loader())
    x = data()[0][0]
    want = lit.eval()(x)
    assert torch.allclose(paredown.load(saving.best_model_path, Lit()).eval()(x), want, atol=1e-6)
    assert torch.allclose(paredown.load(saving.best_model_path, conv_net()).eval()(x), want, atol=1e-6)
    assert Recipe.load(saving.best_model_path).modifiers.keys() == smaller["modifiers"].keys()


def test_a_checkpoint_without_the_callback_is_refused(tmp_path):
    saving = pl.callbacks.ModelCheckpoint(tmp_path, filename="last")
    trainer(tmp_path, saving, enable_checkpointing=True, epochs=1).fit(Lit(), loader())
    with pytest.raises(CheckpointError, match="written without a ParedownCallback"):
        paredown.load(saving.best_model_path, Lit())


def test_the_loggers_get_sparsity_bits_and_losses(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path)
    callback = ParedownCallback(FOUR_FAMILIES, module="net")
    trainer(tmp_path, callback, logger=logger, log_every_n_steps=5).fit(Lit(), loader())
    rows = list(csv.DictReader((Path(logger.log_dir) / "metrics.csv").read_text().splitlines()))
    told = [float(row["paredown/sparsity"]) for row in rows if row["paredown/sparsity"]]
    assert told[0] < told[-1]
    assert {"paredown/bits", "paredown/loss/distill"} <= rows[0].keys()
