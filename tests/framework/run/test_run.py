"""What an adversarial test once found: each is now right, or a clear error."""

import copy
import pickle
from dataclasses import dataclass

import pytest
import torch
from sample_models import batches, mlp, pruning, recipe_of, size, train, zeros
from torch import nn

from paredown import ParedownError, Recipe, ScheduledManager, ScheduleError, TargetError
from paredown.framework.modifier.curves import share_of

KD = {"type": "knowledge_distillation"}


def manager_of(epochs=4, **modifiers):
    return ScheduledManager(Recipe.load(recipe_of(epochs, **modifiers)))


def sgd(model):
    return torch.optim.SGD(model.parameters(), 0.05)


def test_what_modify_brings_replaces_what_prepare_had():
    student, teacher = mlp(seed=1), mlp(seed=2)
    manager = manager_of(kd={**KD, "weight": 1.0})
    manager.prepare(student)
    optimizer = sgd(student)
    manager.modify(student, optimizer, 10, teacher=teacher)
    train(student, optimizer, batches(1))
    assert manager.last_losses["kd"] > 1e-3


def test_a_failed_modify_leaves_nothing_behind():
    model = mlp()
    optimizer, manager = sgd(model), manager_of(prune=pruning(0.5, 0, 1))
    with pytest.raises(ParedownError, match="could not be run on the example inputs"):
        manager.modify(model, optimizer, 10, example_inputs=5)
    with pytest.raises(ParedownError, match="GradScaler is wanted"):
        manager.modify(model, optimizer, 10, grad_scaler=3)
    manager.modify(model, optimizer, 10, example_inputs=batches()[0][0])
    train(model, optimizer, batches())
    assert manager.done


def test_a_finalized_manager_begins_afresh():
    manager = manager_of(1, prune=pruning(0.5, 0, 1, hold=False))
    for model in (mlp(), mlp(seed=1)):
        optimizer = sgd(model)
        manager.modify(model, optimizer, 10)
        train(model, optimizer, batches())
        manager.finalize()
        assert zeros(model) == share_of(0.5, size(model))


def test_weights_that_were_restored_are_pruned_again_by_finalize():
    model = mlp()
    optimizer, manager = sgd(model), manager_of(prune=pruning(0.8))
    dense = copy.deepcopy(model.state_dict())
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(), 4)
    model.load_state_dict(dense)
    manager.finalize()
    assert zeros(model) == share_of(0.8, size(model))


def test_parameters_that_were_replaced_are_an_error():
    model = mlp()
    optimizer, manager = sgd(model), manager_of(prune=pruning(0.8))
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(), 4)
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    for call in (manager.finalize, manager.state_dict):
        with pytest.raises(ScheduleError, match="prune: 3 parameters that it holds are no longer in the model"):
            call()


def test_teachers_that_are_none():
    student = mlp()
    with pytest.raises(ParedownError, match="no modifier is called 'kdd'; there are kd"):
        manager_of(kd=KD).modify(student, sgd(student), 10, teacher={"kdd": mlp()})
    with pytest.raises(ParedownError, match="shares parameters with the student"):
        manager_of(kd=KD).modify(student, sgd(student), 10, teacher=student)
    assert student.training


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_teacher_of_another_type(dtype):
    student = mlp(seed=1)
    optimizer, manager = sgd(student), manager_of(kd=KD)
    manager.modify(student, optimizer, 10, teacher=mlp().to(dtype))
    train(student, optimizer, batches(2))
    assert manager.last_losses["kd"] > 0


def test_targets_of_a_kind_that_is_not_treated_are_named():
    model = nn.Sequential(nn.Embedding(10, 16), nn.Linear(16, 4))
    manager = manager_of(prune=pruning(0.5, targets=["Linear", "Embedding"]))
    with pytest.raises(
        TargetError, match="target 'Embedding' means nothing but Embedding, and only Linear, Conv1D, _ConvNd"
    ):
        manager.modify(model, sgd(model), 10)


def test_a_later_window_gives_nothing_back():
    model = mlp()
    optimizer = sgd(model)
    manager = manager_of(first=pruning(0.5, 0, 1), second=pruning(0.9, 2, 4))
    manager.modify(model, optimizer, 10)
    seen = []
    train(model, optimizer, batches(), 4, after=lambda: seen.append(zeros(model)))
    assert seen == sorted(seen)
    assert seen[19:21] == [share_of(0.5, size(model))] * 2
    assert seen[-1] == share_of(0.9, size(model))


@pytest.mark.parametrize("steps", ["10", True, 2.0])
def test_steps_that_are_none(steps):
    model = mlp()
    with pytest.raises(ScheduleError, match="optimizer steps"):
        manager_of(prune=pruning(0.5)).modify(model, sgd(model), steps)


def test_an_optimizer_twice_and_a_part_that_is_managed():
    model = mlp()
    optimizer = sgd(model)
    with pytest.raises(ParedownError, match="twice"):
        manager_of(prune=pruning(0.5)).modify(model, [optimizer, optimizer], 10)
    manager = manager_of(prune=pruning(0.5))
    manager.modify(model, optimizer, 10)
    with pytest.raises(ParedownError, match="managed already"):
        manager_of(prune=pruning(0.5)).modify(nn.Sequential(model), optimizer, 10)


def test_rates_keep_their_ratio_also_from_zero_and_new_groups_join():
    model = mlp()
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    manager_of(1, rate={"type": "learning_rate", "final": 0.01}).modify(model, optimizer, 10)
    optimizer.add_param_group({"params": model[4].parameters(), "lr": 0.05})
    train(model, optimizer, batches())
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.0, 0.01, 0.005])


def test_a_scaler_copies_and_pickles_as_it_was():
    model = mlp()
    optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu")
    manager_of(prune=pruning(0.5)).modify(model, optimizer, 10, grad_scaler=scaler)
    for twin in (copy.deepcopy(scaler), pickle.loads(pickle.dumps(scaler))):
        assert type(twin) is torch.amp.GradScaler


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (lambda: nn.Sequential(nn.LazyLinear(4)), "lazy layer"),
        (lambda: nn.Linear(4, 4, device="meta"), "meta device"),
        (lambda: None, "torch.nn.Module is wanted"),
    ],
)
def test_models_without_values(model, told):
    with pytest.raises(ParedownError, match=told):
        manager_of(prune=pruning(0.5)).apply(model())


def test_a_plan_of_no_model_is_an_error():
    with pytest.raises(ParedownError, match="torch.nn.Module is wanted"):
        manager_of(prune=pruning(0.5)).plan(None)


@dataclass
class Out:
    loss: torch.Tensor
    logits: torch.Tensor


@pytest.mark.parametrize("kind", [Out, lambda loss, logits: (loss, logits)], ids=["dataclass", "tuple"])
def test_outputs_that_bring_their_loss(kind):
    class Model(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.net = mlp(seed=seed)

        def forward(self, x, y):
            logits = self.net(x)
            return kind(nn.functional.cross_entropy(logits, y), logits)

    student, teacher = Model(1), Model(2)
    reference = copy.deepcopy(student)
    optimizer, manager = sgd(student), manager_of(kd={**KD, "weight": 0.5, "temperature": 1})
    manager.modify(student, optimizer, 10, teacher=teacher)
    x, y = batches()[0]
    out = student(x, y)
    (out.loss if kind is Out else out[0]).backward()
    logits, taught = reference.net(x), teacher.net(x).detach()
    kl = (taught.softmax(-1) * (taught.log_softmax(-1) - logits.log_softmax(-1))).sum(-1).mean()
    (0.5 * nn.functional.cross_entropy(logits, y) + 0.5 * kl).backward()
    for ours, theirs in zip(student.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_a_loop_goes_on_after_an_error_of_the_loss():
    student = mlp()
    optimizer, manager = sgd(student), manager_of(kd=KD)
    manager.modify(student, optimizer, 10, teacher=mlp(seed=2))
    for x, y in batches(2):
        nn.functional.cross_entropy(student(x), y).backward()
    with pytest.raises(ParedownError, match="accumulate=2"):
        optimizer.step()
    train(student, optimizer, batches(2))
    assert manager.run.step == 2


def test_layers_that_their_parent_reads_are_left_as_they_are():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
    model = nn.Sequential(encoder, nn.Flatten(), nn.Linear(80, 64))
    svd = {"type": "svd_decomposition", "targets": ["re:.*out_proj", "2"], "rank": 4, "guard": "none"}
    manager = manager_of(svd=svd)
    assert str(manager.plan(model)).count("left alone: its parent") == 2
    x = torch.randn(2, 5, 16)
    manager.apply(model)
    assert type(model[2]) is nn.Sequential
    model.train()(x)
    model.eval()(x)


@pytest.mark.parametrize(
    ("data", "told"),
    [([], "gave no batch"), ([("words",)], "give forward="), ([{"y": torch.ones(1)}], "give forward=")],
)
def test_data_that_is_none(data, told):
    model = mlp()
    with pytest.raises(ScheduleError, match=told):
        manager_of(q={"type": "quantization_aware_training"}).apply(model, data=data)
    assert type(model[0]) is nn.Linear
