"""Decomposition inside of a training loop: ranks that fall, checkpoints, and what is built on the factors."""

import functools

import pytest
import torch
from decomposing import METHODS, manager_of
from resuming import assert_resumes, going
from sample_models import batches, conv_net, mlp, pruning, recipe_of, train
from torch import nn

import paredown
from paredown import Recipe, ScheduledManager, ScheduleError

DATA = batches(image=True)


go = going(DATA)


def begun(manager, data=None):
    model = conv_net()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    manager.modify(model, optimizer, len(DATA), data=data)
    return model, optimizer, manager


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fields", [{"start": 1}, {"start": 0.5, "end": 2, "every": 0.5}])
def test_resume_in_mid_training(method, fields, tmp_path):
    model = assert_resumes(
        lambda: begun(manager_of(method, 3, 3, targets=["Conv2d"], **fields)), go, 30, (3, 12, 17, 25), tmp_path
    )
    assert isinstance(model.body, nn.Sequential)


def test_resume_with_data(tmp_path):
    def aware():
        return begun(
            manager_of(
                "svd_decomposition", 3, 3, targets=["Conv2d"], start=0.5, end=2, every=0.5, activation_aware=True
            ),
            DATA,
        )

    assert_resumes(aware, go, 30, (3, 12, 17), tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_ranks_fall_over_the_window_to_the_final_ones(method):
    model, optimizer, manager = begun(manager_of(method, 3, 3, targets=["body"], start=0, end=2, every=0.5))
    seen = []
    for epoch in range(6):
        seen.append(sum(parameter.numel() for parameter in model.body.parameters()))
        go(model, optimizer, 5 * epoch, 5 * epoch + 5)
    manager.finalize()
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) > 2
    other = conv_net()
    manager_of(method, 3, targets=["body"]).apply(other)
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in other.named_parameters()}
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model.parameters()}
    assert len(optimizer.state) == len(held)


def test_the_factors_go_on_from_what_was_trained():
    """A step down in rank keeps the best of what training made of the layer, not of the first weights."""
    model, optimizer, manager = begun(
        manager_of("svd_decomposition", 2, 4, targets=["head"], start=0, end=2, every=1, curve="linear")
    )
    go(model, optimizer, 0, 9)
    product = model.head[1].weight.detach() @ model.head[0].weight.detach()
    for group in optimizer.param_groups:
        group["lr"] = group["weight_decay"] = 0.0
    go(model, optimizer, 9, 11)
    now = model.head[1].weight.detach() @ model.head[0].weight.detach()
    values = torch.linalg.svdvals(product)
    assert torch.linalg.matrix_rank(now) == 2
    assert torch.allclose((product - now).norm(), values[2:].norm(), rtol=1e-3)
    manager.release()


def test_a_run_that_stops_inside_the_window_is_told():
    model, optimizer, manager = begun(manager_of("svd_decomposition", 1, 4, targets=["head"], start=0, end=3, every=1))
    go(model, optimizer, 0, 15)
    with pytest.raises(ScheduleError, match=r"rank \d of head was reached, 1 was wanted"):
        manager.finalize()


def test_biases_stay_in_their_param_group():
    model = nn.Sequential(nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8))
    decay = [p for n, p in model.named_parameters() if not n.endswith("bias")]
    rest = [p for n, p in model.named_parameters() if n.endswith("bias")]
    optimizer = torch.optim.AdamW([{"params": decay}, {"params": rest, "weight_decay": 0.0}], 1e-3)
    manager_of("svd_decomposition", 2).modify(model, optimizer, 5)
    groups = [{id(p) for p in group["params"]} for group in optimizer.param_groups]
    for name, parameter in model.named_parameters():
        assert id(parameter) in groups[name.endswith("bias")], name


def recipe():
    quantize = {"type": "quantization_aware_training", "start": 2, "freeze_observers": 3}
    distill = {"type": "knowledge_distillation", "teacher": "initial", "weight": 0.5}
    return manager_of(
        "svd_decomposition",
        4,
        4,
        start=0.5,
        more={
            "prune": pruning(0.5, 1, 2, targets=["body", "head"]),
            "quantize": quantize,
            "distill": distill,
        },
    )


def test_decompose_prune_the_factors_quantize_and_distil(tmp_path):
    model = assert_resumes(lambda: begun(recipe()), go, 40, (7, 15, 25, 35), tmp_path)
    factors = [layer.weight for part in (model.body, model.head) for layer in part]
    assert sum(int((weight == 0).sum()) for weight in factors) == sum(weight.numel() for weight in factors) // 2


@pytest.mark.parametrize("method", METHODS)
def test_load_for_inference(method, tmp_path):
    model, optimizer, manager = begun(manager_of(method, 3, 2, targets=["Conv2d"], start=0.2, end=1, every=0.4))
    go(model, optimizer, 0, 20)
    manager.finalize()
    paredown.save(tmp_path / "c.pt", model, optimizer, manager)
    loaded = paredown.load(tmp_path / "c.pt", conv_net(seed=3))
    x = DATA[0][0]
    assert torch.equal(loaded.eval()(x), model.eval()(x))


def test_attention_comes_back_from_a_checkpoint(tmp_path):
    def parts():
        torch.manual_seed(0)
        model = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        manager = manager_of("svd_decomposition", 3, 3, start=1, end=2, every=0.5)
        manager.modify(model, optimizer, 10)
        return model, optimizer, manager

    def steps(model, optimizer, first, last):
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            optimizer.zero_grad()
            model(torch.randn(4, 5, 8, generator=generator)).square().mean().backward()
            optimizer.step()

    model = assert_resumes(parts, steps, 30, (5, 12, 18), tmp_path)
    assert isinstance(model.linear1, nn.Sequential)
    whole = functools.partial(nn.TransformerEncoderLayer, 8, 2, 16, 0.0, batch_first=True)
    done = parts()
    steps(*done[:2], 0, 30)
    done[2].finalize()
    paredown.save(tmp_path / "d.pt", *done)
    loaded = paredown.load(tmp_path / "d.pt", whole()).eval()
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        assert torch.equal(loaded(x), done[0].eval()(x))


def test_prepare_before_an_optimizer():
    model = mlp()
    manager = manager_of("svd_decomposition", 4)
    manager.prepare(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(), 2)
    manager.finalize()
    assert all(isinstance(model[place], nn.Sequential) for place in (0, 2, 4))


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.read, self.called = nn.Linear(32, 32, bias=False), nn.Linear(32, 32)

    def forward(self, x):
        return self.called(nn.functional.linear(x, self.read.weight))


@pytest.mark.parametrize("known", [True, False])
def test_a_layer_whose_weight_the_parent_reads_is_left_alone(known):
    model, x = Reader(), torch.randn(4, 32)
    recipe = Recipe.load(recipe_of(1, low={"type": "svd_decomposition", "rank": 4, "guard": "none"}))
    report = ScheduledManager(recipe).apply(model, **({"example_inputs": (x,)} if known else {}))
    assert isinstance(model.read, nn.Linear)
    assert isinstance(model.called, nn.Sequential)
    assert model(x).shape == x.shape
    reasons = {event["layer"]: event["reason"] for event in report.events if event["event"] == "left alone"}
    assert ("its parent reads its weight" in reasons["read"]) != known
    assert ("does not run with other layers" in reasons["read"]) == known
