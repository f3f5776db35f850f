"""The injected gradient is the explicit sum's, by every explicitly, or the run is stopped with the line to add."""

import copy
from typing import NamedTuple

import pytest
import torch
from sample_models import batches, mlp, recipe_of, train
from torch import nn
from torch.nn import functional as F

from paredown import ParedownError, Recipe, ScheduledManager, ScheduleError
from paredown.framework.auxiliary.losses import AuxiliaryLosses, Scaling, Term
from paredown.framework.model.links import add_link

TEMPERATURE, WEIGHT = 3.0, 0.7


def explicit(student, teacher, x, y):
    s, t = student(x), teacher(x).detach()
    soft = [F.softmax(z / TEMPERATURE, -1) for z in (t, s)]
    kl = (soft[0] * (soft[0].log() - soft[1].log())).sum(-1).mean() * TEMPERATURE**2
    return (1 - WEIGHT) * F.cross_entropy(s, y) + WEIGHT * kl


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def setup(dtype=torch.float64, steps=10, **modify):
    student, teacher = mlp(seed=5).to(dtype), mlp(seed=0).to(dtype)
    data = [(x.to(dtype), y) for x, y in batches()]
    distill = {"type": "knowledge_distillation", "temperature": TEMPERATURE, "weight": WEIGHT}
    manager = ScheduledManager(Recipe.load(recipe_of(4, distill=distill)))
    reference = copy.deepcopy(student)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    manager.modify(student, optimizer, steps, teacher=teacher, **modify)
    return student, teacher, reference, data, optimizer, manager


@pytest.mark.parametrize("explicitly", "abc")
def test_the_gradient_is_that_of_the_explicit_sum(explicitly):
    student, teacher, reference, data, optimizer, manager = setup()
    criterion = manager.wrap_criterion(nn.CrossEntropyLoss()) if explicitly == "c" else nn.CrossEntropyLoss()
    for x, y in data[:3]:
        reference.load_state_dict(student.state_dict())
        reference.zero_grad()
        whole = explicit(reference, teacher, x, y)
        whole.backward()
        optimizer.zero_grad()
        loss = criterion(student(x), y)
        loss = manager.loss(loss) if explicitly == "b" else loss
        loss.backward()
        assert (gradients(student) - gradients(reference)).abs().max() < 1e-12
        told = manager.last_losses
        assert told["injected"] == pytest.approx(WEIGHT * told["distill"])
        if explicitly != "a":
            assert told["total"] == pytest.approx(whole.item())
        optimizer.step()


def test_declared_accumulation():
    student, teacher, reference, data, *_ = setup(accumulate=4)
    for x, y in data[:4]:
        (explicit(reference, teacher, x, y) / 4).backward()
        (F.cross_entropy(student(x), y) / 4).backward()
    assert (gradients(student) - gradients(reference)).abs().max() < 1e-12


@pytest.mark.parametrize("accumulate", [None, 3])
def test_declared_scaler_follows_its_scale(accumulate):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    student, teacher, reference, data, optimizer, _ = setup(grad_scaler=scaler, accumulate=accumulate)
    k = accumulate or 1
    for begin in range(0, 9, 3):
        reference.load_state_dict(student.state_dict())
        reference.zero_grad()
        optimizer.zero_grad()
        for x, y in data[begin : begin + k]:
            (explicit(reference, teacher, x, y) / k).backward()
            scaler.scale(F.cross_entropy(student(x), y) / k).backward()
        scaler.unscale_(optimizer)
        assert (gradients(student) - gradients(reference)).abs().max() < 1e-12
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 8192


def test_undeclared_accumulation_is_stopped_at_the_first_step():
    student, _, _, data, optimizer, _ = setup()
    for x, y in data[:4]:
        (F.cross_entropy(student(x), y) / 4).backward()
    before = [p.clone() for p in student.parameters()]
    with pytest.raises(ParedownError, match="accumulate=4"):
        optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(student.parameters(), before, strict=True))


def test_undeclared_scaler_on_a_fused_optimizer_is_stopped():
    student, _, _, data, _, manager = setup(torch.float32)
    manager.release()
    optimizer = torch.optim.SGD(student.parameters(), 0.1, fused=True)
    again = ScheduledManager(manager.recipe)
    again.modify(student, optimizer, 10)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(F.cross_entropy(student(data[0][0]), data[0][1])).backward()
    with pytest.raises(ParedownError, match="grad_scaler=scaler"):
        scaler.step(optimizer)


def test_fp16_autocast_without_a_scaler_is_stopped():
    student, _, _, data, optimizer, _ = setup(torch.float32)
    with torch.autocast("cpu", torch.float16):
        loss = F.cross_entropy(student(data[0][0]).float(), data[0][1])
    loss.backward()
    with pytest.raises(ParedownError, match="fp16 autocast"):
        optimizer.step()


def test_accumulate_one_means_nothing_is_scaled():
    student, teacher, reference, data, optimizer, _ = setup(accumulate=1)
    for x, y in data[:2]:
        explicit(reference, teacher, x, y).backward()
        F.cross_entropy(student(x), y).backward()
    assert (gradients(student) - gradients(reference)).abs().max() < 1e-12
    optimizer.step()


def test_a_second_backward_names_the_other_ways():
    student, _, _, data, optimizer, _ = setup(torch.float32)
    x, y = data[0]
    z = student(x)
    F.cross_entropy(z, y).backward(retain_graph=True)
    z.square().mean().backward()
    with pytest.raises(ParedownError, match=r"2 backward passes .*manager\.loss.*wrap_criterion"):
        optimizer.step()


def test_a_term_that_reached_no_gradient_names_the_other_ways():
    student, _, _, data, optimizer, _ = setup(torch.float32, accumulate=2)
    F.cross_entropy(student(data[0][0]), data[0][1]).backward()
    kept = student(data[1][0])
    with pytest.raises(ParedownError, match=r"2 training forwards but reached a gradient in 1.*no_grad"):
        optimizer.step()
    assert kept.requires_grad


def test_one_call_for_each_forward():
    student, _, _, data, optimizer, manager = setup(torch.float32)
    losses = [F.cross_entropy(student(x), y) for x, y in data[:2]]
    manager.loss(sum(losses)).backward()
    with pytest.raises(ParedownError, match="2 training forwards, but 1 calls"):
        optimizer.step()


def test_a_training_step_in_a_closure():
    """As Lightning runs it: forward and backward inside of the optimizer's step, in a method of the module."""
    student, teacher, reference, data, optimizer, _ = setup()

    class Module(nn.Module):
        def training_step(self, batch):
            x, y = batch
            return F.cross_entropy(student(x), y)

    seen = []

    def closure():
        optimizer.zero_grad()
        loss = Module().training_step(data[0])
        loss.backward()
        seen.append(gradients(student))
        return loss

    optimizer.step(closure)
    explicit(reference, teacher, *data[0]).backward()
    assert (seen[0] - gradients(reference)).abs().max() < 1e-12


@pytest.mark.parametrize("compiled", [False, True])
def test_a_loop_without_a_loss_of_its_own(compiled):
    """Distilling without labels: the whole loss is the terms."""
    torch._dynamo.reset()
    student, teacher, _, data, optimizer, manager = setup(torch.float32)
    forward = torch.compile(student, backend="aot_eager", fullgraph=True) if compiled else student
    x = data[0][0]
    forward(x)
    manager.loss(torch.zeros(())).backward()
    soft = [F.log_softmax(z / TEMPERATURE, -1) for z in (student.eval()(x), teacher(x).detach())]
    kl = F.kl_div(*soft, log_target=True, reduction="batchmean") * TEMPERATURE**2
    want = torch.autograd.grad(WEIGHT * kl, list(student.parameters()))
    assert (gradients(student) - torch.cat([w.flatten() for w in want])).abs().max() < 1e-6
    optimizer.step()
    forward(data[1][0])


def test_a_second_backward_through_the_whole_loss_is_told():
    student, _, _, data, optimizer, manager = setup(torch.float32)
    x, y = data[0]
    total = manager.loss(F.cross_entropy(student(x), y))
    total.backward(retain_graph=True)
    total.backward()
    with pytest.raises(ParedownError, match="2 backward passes"):
        optimizer.step()


def test_validation_and_no_grad_forwards_are_left_alone():
    student, teacher, _, data, optimizer, manager = setup(torch.float32)
    x, y = data[0]
    with torch.no_grad():
        student(x)
    student.eval()
    loss = F.cross_entropy(student(x), y)
    assert manager.loss(loss) is loss
    student.train()
    train(student, optimizer, data[:2])


class Out(NamedTuple):
    hidden: torch.Tensor
    logits: torch.Tensor


@pytest.mark.parametrize("wrap", ["dict", "tuple", "named"])
def test_any_output_structure(wrap):
    class Model(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.net = mlp(seed=seed)

        def forward(self, x):
            logits = self.net(x)
            return {"dict": {"logits": logits, "n": 3}, "tuple": (logits, None), "named": Out(x, logits)}[wrap]

    student, teacher = Model(1).double(), Model(0).double()
    reference = copy.deepcopy(student)
    distill = {"type": "knowledge_distillation", "temperature": TEMPERATURE, "weight": WEIGHT}
    manager = ScheduledManager(Recipe.load(recipe_of(4, distill=distill)))
    manager.modify(student, torch.optim.SGD(student.parameters(), 0.1), 10, teacher=teacher)
    x, y = batches()[0]
    out = student(x.double())
    assert type(out) is type(reference(x.double()))
    logits = out["logits"] if wrap == "dict" else out[1] if wrap == "named" else out[0]
    F.cross_entropy(logits, y).backward()
    explicit(reference.net, teacher.net, x.double(), y).backward()
    assert (gradients(student) - gradients(reference)).abs().max() < 1e-12


def test_an_added_term_leaves_the_own_loss_whole():
    model = nn.Linear(3, 1).double()
    reference = copy.deepcopy(model)
    terms = {
        "mixed": Term(lambda forward: forward.output.square().mean(), 0.25),
        "added": Term(lambda forward: forward.output.abs().mean(), 2.0, add=True),
    }
    add_link(model, AuxiliaryLosses(terms, Scaling(), torch.device("cpu")))
    x = torch.randn(5, 3, dtype=torch.float64)
    model(x).sum().backward()
    out = reference(x)
    (0.75 * out.sum() + 0.25 * out.square().mean() + 2.0 * out.abs().mean()).backward()
    assert (gradients(model) - gradients(reference)).abs().max() < 1e-12


def test_weights_above_one_in_sum_are_refused():
    distill = {"type": "knowledge_distillation", "weight": 0.6}
    manager = ScheduledManager(Recipe.load(recipe_of(4, one=distill, two=distill)))
    model = mlp()
    with pytest.raises(ScheduleError, match=r"1\.2 in sum.*one 0\.6, two 0\.6"):
        manager.modify(model, torch.optim.SGD(model.parameters(), 0.1), 10)
    assert type(model) is nn.Sequential


def test_output_without_a_gradient_is_named():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            return self.net(x).detach()

    model = Detached()
    manager = ScheduledManager(Recipe.load(recipe_of(4, distill={"type": "knowledge_distillation"})))
    manager.modify(model, torch.optim.SGD(model.parameters(), 0.1), 10)
    with pytest.raises(ParedownError, match="no tensor with a gradient"):
        model(batches()[0][0])


def test_a_loop_that_calls_only_a_part_of_the_model_is_told():
    model = nn.Sequential(mlp())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    manager = ScheduledManager(Recipe.load(recipe_of(4, distill={"type": "knowledge_distillation"})))
    manager.modify(model, optimizer, 10)
    with pytest.warns(UserWarning, match="distill: the model's own forward was not called"):
        train(model[0], optimizer, batches(2))


@pytest.mark.parametrize("explicitly", "abc")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled(when, explicitly, backend):
    torch._dynamo.reset()
    student, teacher, data = mlp(seed=5), mlp(seed=0), batches()
    reference = copy.deepcopy(student)
    compiled = torch.compile(student, backend=backend, fullgraph=True)
    if when == "before":
        compiled(data[0][0])
    distill = {"type": "knowledge_distillation", "temperature": TEMPERATURE, "weight": WEIGHT}
    manager = ScheduledManager(Recipe.load(recipe_of(4, distill=distill)))
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    manager.modify(student, optimizer, 10, teacher=teacher)
    criterion = manager.wrap_criterion(nn.CrossEntropyLoss()) if explicitly == "c" else nn.CrossEntropyLoss()
    for x, y in data[:3]:
        reference.load_state_dict(student.state_dict())
        reference.zero_grad()
        explicit(reference, teacher, x, y).backward()
        optimizer.zero_grad()
        loss = criterion(compiled(x), y)
        loss = manager.loss(loss) if explicitly == "b" else loss
        loss.backward()
        assert (gradients(student) - gradients(reference)).abs().max() < 1e-6
        optimizer.step()
