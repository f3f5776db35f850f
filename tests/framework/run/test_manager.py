"""Beginnings and endings other than a training loop: prepare, apply, report."""

import pytest
import torch
from sample_models import batches, conv_net, mlp, pruning, recipe_of, size, train, zeros
from torch import nn

from paredown import ParedownError, Recipe, ScheduledManager, ScheduleError
from paredown.framework.modifier.curves import share_of

SVD = {"type": "svd_decomposition", "targets": ["head"], "rank": 2, "guard": "none"}


def manager_of(epochs=2, **modifiers):
    return ScheduledManager(Recipe.load(recipe_of(epochs, **modifiers)))


def test_prepare_changes_structure_before_the_optimizer_is_built():
    model = conv_net()
    manager = manager_of(svd=SVD, prune=pruning(0.5, 0, 1))
    assert manager.prepare(model) is model
    assert type(model.head) is nn.Sequential
    assert zeros(model) == 0
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(image=True), 2)
    manager.finalize()
    assert zeros(model) == share_of(0.5, size(model))


def test_structure_changes_inside_of_ddp(tmp_path):
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "s"), 1), rank=0, world_size=1
    )
    try:
        model = conv_net()
        wrapped = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(wrapped.parameters(), 0.1)
        manager = manager_of(svd=SVD, prune=pruning(0.5, 0, 1))
        manager.modify(wrapped, optimizer, 10)
        train(wrapped, optimizer, batches(image=True), 2)
        manager.finalize()
        assert type(model.head) is nn.Sequential
        assert zeros(model) == share_of(0.5, size(model))
    finally:
        torch.distributed.destroy_process_group()


def test_apply_runs_in_window_order_and_reports():
    model = conv_net()
    q = {"type": "quantization_aware_training", "start": 1}
    manager = manager_of(q=q, prune=pruning(0.5, 0, 1), svd=SVD)
    report = manager.apply(model, data=batches(image=True), example_inputs=torch.randn(2, 1, 8, 8))
    assert [e["modifier"] for e in manager.events if e["event"] == "start"] == ["prune", "svd", "q"]
    assert report.dense.parameters == sum(p.numel() for p in conv_net().parameters())
    assert report.compressed.parameters == sum(p.numel() for p in model.parameters())
    assert report.compressed.bytes < report.dense.bytes_plain
    assert manager.done


def test_apply_refuses_training_modifiers_by_name_before_anything_changes():
    model = mlp()
    manager = manager_of(4, prune=pruning(0.5), distill={"type": "knowledge_distillation"})
    with pytest.raises(ScheduleError, match=r"distill \(knowledge_distillation\) cannot work without training"):
        manager.apply(model)
    assert zeros(model) == 0


def test_a_report_measures_when_asked():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    manager = manager_of(prune=pruning(0.5, 0, 1))
    with pytest.raises(ParedownError, match="nothing to report"):
        manager.report()
    manager.modify(model, optimizer, 10, example_inputs=batches()[0][0])
    train(model, optimizer, batches(), 2)
    manager.finalize()
    report = manager.report(evaluate=lambda m: 0.5 + 0.25 * (m is model), dense=mlp())
    assert (report.dense.metrics, report.compressed.metrics) == ({"accuracy": 0.5}, {"accuracy": 0.75})
    assert report.compressed.nonzeros < report.dense.nonzeros
    assert report.compressed.bytes < report.dense.bytes
    assert report.dense.macs == report.compressed.macs == 8 * (16 * 32 + 32 * 32 + 32 * 4)
    assert report.dense.latency[1] > 0
    assert "accuracy" in str(report)


def test_state_without_a_run_is_an_error():
    manager = manager_of(4, prune=pruning(0.5))
    for call in (manager.state_dict, manager.finalize):
        with pytest.raises(ParedownError, match="there is no run"):
            call()


def test_example_inputs_may_be_named():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, *, left, right=None):
            return {"out": self.layer(left) if right is None else self.layer(left) + right}

    model = Named()
    inputs = {"left": torch.randn(2, 4)}
    recipe = Recipe.load(recipe_of(1, decompose={"type": "svd_decomposition", "rank": 2, "guard": "latency"}))
    report = ScheduledManager(recipe).apply(model, example_inputs=inputs)
    assert report.dense.macs == 2 * 16
    assert str(ScheduledManager(recipe).plan(Named(), example_inputs=inputs))


def test_release_of_a_model_whose_manager_is_gone():
    """A notebook's cell that is run again: the error says what to call, and then it works."""
    model, recipe = mlp(), recipe_of(2, distill={"type": "knowledge_distillation"})
    for cell in range(2):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        manager = ScheduledManager(Recipe.load(recipe))
        if cell:
            with pytest.raises(ParedownError, match=r"manager\.release\(model\)"):
                manager.modify(model, optimizer, 10)
            manager.release(model)
            assert type(model) is nn.Sequential
        manager.modify(model, optimizer, 10)
        train(model, optimizer, batches(10))
    train(model, optimizer, batches(10))
    manager.finalize()
