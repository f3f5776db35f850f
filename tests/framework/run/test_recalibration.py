"""Batch-norms after a change: against a float64 average over the data of the model as it became."""

import copy

import pytest
import torch
from sample_models import recipe_of
from torch import nn

import paredown
from paredown import Recipe, ScheduledManager, ScheduleError, TargetError
from paredown.framework.calibration.batch_norms import batch_norms_of

CUT = {"type": "channel_pruning", "final_sparsity": 0.5, "scope": "local", "round_to": 1}
PRUNE = {"type": "magnitude_pruning", "final_sparsity": 0.8}
CHANGES = {
    "channels": CUT,
    "layers": {"type": "layer_pruning", "final_sparsity": 0.5},
    "masks": PRUNE,
    "layer by layer": {"type": "wanda_pruning", "final_sparsity": 0.7},
    "decomposition": {"type": "svd_decomposition", "targets": ["stem", "mid"], "rank": {"ratio": 3}, "guard": "none"},
}


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x):
        return x + self.norm(self.conv(x)).relu()


class Net(nn.Module):
    """A norm in front of all that is changed, and three behind it."""

    def __init__(self, momentum=0.01):
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(*[Block(16) for _ in range(2)])
        self.mid, self.last, self.head = nn.Conv2d(16, 24, 3), nn.BatchNorm2d(24), nn.Linear(24, 4)
        for norm in batch_norms_of(self).values():
            norm.momentum = momentum

    def forward(self, x):
        x = self.norm(self.stem(self.first(x))).relu()
        return self.head(self.last(self.mid(self.blocks(x))).relu().mean((2, 3)))


def data_of(count=6, size=8):
    generator = torch.Generator().manual_seed(2)
    return [(torch.randn(size, 3, 6, 6, generator=generator) + 0.5, torch.arange(size) % 4) for _ in range(count)]


def trained(momentum=0.01, steps=100):
    torch.manual_seed(0)
    model, data = Net(momentum), data_of()
    with torch.no_grad():
        for step in range(steps):
            model(data[step % 6][0])
    return model, data


def manager_of(epochs=3, **fields):
    return ScheduledManager(Recipe.load(recipe_of(epochs, p=fields)))


def statistics(model):
    return {name: (each.running_mean.clone(), each.running_var.clone()) for name, each in batch_norms_of(model).items()}


def of_the_data(model, data, names=None):
    """The means over the batches of mean and variance, in float64; the norms that are named go by their batch."""
    wide = copy.deepcopy(model).double().eval()
    for name, norm in batch_norms_of(wide).items():
        if names is None or name in names:
            norm.train().reset_running_stats()
            norm.momentum = None
    with torch.no_grad():
        for x, _ in data:
            wide(x.double())
    return statistics(wide)


def distance(found, wanted, names=None):
    """The largest difference: of means in deviations, of variances relative."""
    pairs = [(found[name], wanted[name]) for name in names or wanted]
    return max(
        max(float(((a[0] - b[0]).abs() / b[1].sqrt()).max()), float((a[1] / b[1] - 1).abs().max())) for a, b in pairs
    )


def loop(model, optimizer, data, steps, first=0):
    model.train()
    for step in range(first, first + steps):
        x, y = data[step % len(data)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def run(manager, model, batches, steps=18, rate=1e-4, **more):
    optimizer = torch.optim.SGD(model.parameters(), rate)
    manager.modify(model, optimizer, 6, example_inputs=(batches[0][0],), **more)
    loop(model, optimizer, batches, steps)
    return manager.finalize()


@pytest.mark.parametrize("change", CHANGES)
def test_applied_with_data_they_are_those_of_the_changed_model(change):
    model, data = trained()
    before = statistics(model)
    manager_of(**CHANGES[change]).apply(model.eval(), data=data, example_inputs=(data[0][0],))
    behind = [name for name in batch_norms_of(model) if name != "first" or change == "layers"]
    assert distance(statistics(model), of_the_data(model, data, behind), behind) < 1e-3
    assert not any(module.training for module in model.modules())
    if change != "layers":  # what is in front of it is as good as it was
        assert all(map(torch.equal, statistics(model)["first"], before["first"]))


@pytest.mark.parametrize("change", CHANGES)
def test_applied_without_data_or_asked_to_leave_them_they_stay(change):
    needs_data = change == "layer by layer"
    for fields, more in (({}, {}), ({"recalibrate_batch_norm": False}, {"data": data_of()})):
        if needs_data and not more:
            continue
        model, data = trained(steps=6)
        before = {name: values for name, values in statistics(model).items() if len(values[0]) in (3, 16, 24)}
        manager_of(**CHANGES[change], **fields).apply(model, example_inputs=(data[0][0],), **more)
        for name, (mean, variance) in statistics(model).items():
            if name in before and len(mean) == len(before[name][0]) and change != "layers":
                assert torch.equal(mean, before[name][0])
                assert torch.equal(variance, before[name][1])


@pytest.mark.parametrize("change", CHANGES)
def test_asked_for_without_data_is_refused_before_the_change(change):
    model, data = trained(steps=6)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ScheduleError, match=r"needs batches to calibrate on: apply\(model, data=loader\)"):
        manager_of(**CHANGES[change], recalibrate_batch_norm=True).apply(model, example_inputs=(data[0][0],))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("change", ["channels", "layers", "masks", "decomposition"])
def test_a_loop_with_data_ends_with_those_of_the_data(change):
    model, data = trained()
    window = {"start": 0, "end": 3, "every": 1} if change in ("channels", "masks", "decomposition") else {"start": 2}
    report = run(manager_of(**CHANGES[change], **window), model, data, data=data)
    assert distance(statistics(model), of_the_data(model, data)) < 1e-3
    assert any(event["event"] == "batch-norms" and event["of"] == "data" for event in report.events)


@pytest.mark.parametrize("change", ["channels", "layers", "masks", "decomposition"])
def test_a_loop_without_data_ends_with_those_of_its_own_batches(change):
    model, data = trained()
    plain, _ = trained()
    fields = {**CHANGES[change], "start": 1} | ({"end": 1, "curve": "constant"} if change == "masks" else {})
    run(manager_of(**fields, recalibrate_batch_norm=False), plain, data)
    run(manager_of(**fields), model, data)
    wanted = of_the_data(model, data)
    assert all(map(torch.equal, plain.parameters(), model.parameters()))
    assert distance(statistics(plain), wanted) > 0.3
    assert distance(statistics(model), wanted) < 0.05


def test_a_change_at_the_last_step_is_told():
    model, data = trained()
    report = run(manager_of(**CUT, every=3), model, data)
    assert any(
        "no batch followed the last change" in note and "modify(..., data=loader)" in note for note in report.notes
    )


def test_of_a_cumulative_average_only_what_came_after_the_change_is_left():
    model, data = trained(momentum=None)
    run(manager_of(**CUT, start=1), model, data)
    assert distance(statistics(model), of_the_data(model, data)) < 0.05


def test_statistics_that_have_followed_are_left_alone():
    model, data = trained(momentum=0.5)
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    manager = manager_of(**CUT, start=1)
    manager.modify(model, optimizer, 6, example_inputs=(data[0][0],), data=data)
    loop(model, optimizer, data, 18)
    before = statistics(model)
    manager.finalize()
    assert all(torch.equal(a, b) for name in before for a, b in zip(before[name], statistics(model)[name], strict=True))


def test_frozen_statistics_stay_since_the_model_was_trained_for_them():
    model, data = trained()
    norms = batch_norms_of(model)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    manager = manager_of(**PRUNE, end=1)
    manager.modify(model, optimizer, 6, data=data)
    before = statistics(model)
    for step in range(18):
        model.train()
        for norm in norms.values():
            norm.eval()
        optimizer.zero_grad()
        model(data[step % 6][0]).square().mean().backward()
        optimizer.step()
    manager.finalize()
    assert all(torch.equal(a, b) for name in before for a, b in zip(before[name], statistics(model)[name], strict=True))


def test_what_was_quantized_for_its_statistics_keeps_them():
    model, data = trained()
    recipe = recipe_of(3, p={**CUT, "start": 1}, q={"type": "quantization_aware_training", "start": 2})
    report = run(ScheduledManager(Recipe.load(recipe)), model, data, data=data)
    assert not any(
        event["event"] == "batch-norms" and event["modifier"] == "p" and event["step"] == 18 for event in report.events
    )


@pytest.mark.parametrize("fields", [{}, {"recalibrate_batch_norm": True}])
def test_data_that_says_too_little(fields):
    """Four samples: no reason to throw away what there is, unless somebody asks for it."""
    model, data = trained(steps=6)
    before = statistics(model)
    few = [(x[:2], y[:2]) for x, y in data[:2]]
    report = manager_of(**PRUNE, **fields).apply(model, data=few)
    same = all(torch.equal(a, b) for name in before for a, b in zip(before[name], statistics(model)[name], strict=True))
    assert same != bool(fields)
    assert any("data has 4 samples" in note for note in report.notes) != bool(fields)


def test_values_that_are_not_finite():
    data = data_of()
    data[2][0][0, 0] = float("nan")
    model, _ = trained(steps=6)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TargetError, match=r"p: what reaches \w+ is not finite on data"):
        manager_of(**CUT).apply(model, data=data, example_inputs=(data[0][0],))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    report = manager_of(**PRUNE).apply(model, data=data)
    assert any("left as they were" in note and "not finite" in note for note in report.notes)
    assert all(bool(each.isfinite().all()) for pair in statistics(model).values() for each in pair)


def test_an_iterator_is_not_used_up_unless_it_is_asked_for():
    model, data = trained(steps=6)
    batches = iter(data)
    manager_of(**PRUNE).apply(model, data=batches)
    assert next(batches) is data[0]


@pytest.mark.parametrize("killed", [7, 11, 17])
@pytest.mark.parametrize("change", ["channels", "masks"])
def test_a_resumed_run_ends_with_the_same_bits(change, killed, tmp_path):
    fields = {**CHANGES[change], "start": 1, "end": 2, "every": "3 steps"}
    whole, data = trained(steps=30)
    run(manager_of(**fields), whole, data)
    model, _ = trained(steps=30)
    optimizer, manager = torch.optim.SGD(model.parameters(), 1e-4), manager_of(**fields)
    manager.modify(model, optimizer, 6, example_inputs=(data[0][0],))
    loop(model, optimizer, data, killed)
    paredown.save(tmp_path / "c.pt", model, optimizer, manager)
    again, _ = trained(steps=30)
    optimizer, manager = torch.optim.SGD(again.parameters(), 1e-4), manager_of(**fields)
    manager.modify(again, optimizer, 6, example_inputs=(data[0][0],))
    paredown.resume(tmp_path / "c.pt", again, optimizer, manager)
    loop(again, optimizer, data, 18 - killed, killed)
    manager.finalize()
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in again.state_dict().items())
