"""Loops that ask more of autograd: the gradient is the explicit sum's, or the step is refused with the way out."""

import copy

import pytest
import torch
from sample_models import batches, mlp, recipe_of
from torch import nn
from torch.nn import functional as F

from paredown import ParedownError, Recipe, ScheduledManager

WEIGHT = 0.4
DISTILL = {"type": "knowledge_distillation", "temperature": 1.0, "weight": WEIGHT}


def setup(dtype=torch.float64, recipe=DISTILL, teacher=True, **modify):
    student, master = mlp(seed=5).to(dtype), mlp(seed=0).to(dtype)
    reference = copy.deepcopy(student)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    manager = ScheduledManager(Recipe.load(recipe_of(4, distill=recipe)))
    manager.modify(student, optimizer, 10, **({"teacher": master} if teacher else {}), **modify)
    return student, master, reference, [(x.to(dtype), y) for x, y in batches()], optimizer, manager


def kl(ours, theirs):
    return F.kl_div(ours.log_softmax(-1), theirs.detach().log_softmax(-1), log_target=True, reduction="batchmean")


def explicit(own, logits, master, x):
    return (1 - WEIGHT) * own + WEIGHT * kl(logits, master(x))


def assert_alike(model, reference, atol=1e-12):
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, rtol=0, atol=atol)


def slope(logits, x, **how):
    return torch.autograd.grad(logits.square().sum(), x, **how)[0]


def test_an_attack_gets_the_models_own_slope_and_is_no_forward():
    student, master, reference, data, optimizer, _ = setup()
    for x, y in data[:2]:
        x = x.clone().requires_grad_()
        attack = slope(student(x), x)
        assert torch.equal(attack, slope(reference(x), x))
        near = (x + 0.1 * attack.sign()).detach()
        optimizer.zero_grad()
        F.cross_entropy(student(near), y).backward()
        reference.zero_grad()
        logits = reference(near)
        explicit(F.cross_entropy(logits, y), logits, master, near).backward()
        assert_alike(student, reference)
        optimizer.step()
        reference.load_state_dict(student.state_dict())


def test_an_attack_between_a_forward_and_its_loss_leaves_the_terms_where_they_belong():
    student, master, reference, data, optimizer, manager = setup()
    x, y = data[0]
    logits = student(x)
    probe = data[1][0].clone().requires_grad_()
    slope(student(probe), probe)
    manager.loss(F.cross_entropy(logits, y)).backward()
    own = reference(x)
    explicit(F.cross_entropy(own, y), own, master, x).backward()
    assert_alike(student, reference)
    optimizer.step()


@pytest.mark.parametrize("whole", [False, True])
def test_a_penalty_on_the_slope_is_exact_in_the_whole_loss_and_refused_beside_it(whole):
    student, master, reference, data, optimizer, manager = setup()
    x, y = data[0][0].clone().requires_grad_(), data[0][1]

    def own(model):
        logits = model(x)
        return F.cross_entropy(logits, y) + slope(logits, x, create_graph=True).square().mean(), logits

    loss, _ = own(student)
    want, logits = own(reference)
    assert torch.equal(loss, want)
    if not whole:
        with pytest.raises(ParedownError, match=r"create_graph=True.*manager\.loss"):
            loss.backward()
        return
    manager.loss(loss).backward()
    explicit(want, logits, master, x).backward()
    assert_alike(student, reference)
    optimizer.step()


def test_a_penalty_that_goes_back_alone_is_refused_before_the_step():
    student, _, _, data, optimizer, _ = setup()
    x = data[0][0].clone().requires_grad_()
    torch.autograd.grad(student(x).sum(), x, create_graph=True)[0].square().mean().backward()
    with pytest.raises(ParedownError, match=r"manager\.loss"):
        optimizer.step()


def test_gradients_of_gradients_are_refused_beside_the_whole_loss():
    student, _, _, data, _, _ = setup()
    with pytest.raises(ParedownError, match="create_graph"):
        F.cross_entropy(student(data[0][0]), data[0][1]).backward(create_graph=True)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("way", ["inputs", "grad"])
def test_gradients_asked_for_by_name(way, whole):
    student, master, reference, data, optimizer, manager = setup()
    x, y = data[0]
    loss = F.cross_entropy(student(x), y)
    loss = manager.loss(loss) if whole else loss
    weights = list(student.parameters())
    if way == "inputs":
        loss.backward(inputs=weights)
    else:
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
    logits = reference(x)
    explicit(F.cross_entropy(logits, y), logits, master, x).backward()
    assert_alike(student, reference)
    optimizer.step()


@pytest.mark.parametrize("whole", [False, True])
def test_gradients_asked_for_by_name_leave_no_peer_behind(whole):
    mutual = {"type": "mutual_learning", "weight": 0.5}
    student, _, _, data, _, manager = setup(recipe=mutual, teacher=False)
    loss = F.cross_entropy(student(data[0][0]), data[0][1])
    loss = manager.loss(loss) if whole else loss
    with pytest.raises(ParedownError, match=r"beside the model.*loss\.backward\(\)"):
        torch.autograd.grad(loss, list(student.parameters()))


@pytest.mark.parametrize("way", ["hook", "loss"])
def test_a_dropped_batch_is_no_forward(way):
    student, master, reference, data, optimizer, manager = setup()
    for place, (x, y) in enumerate(data[:6]):
        loss = F.cross_entropy(student(x), y)
        if place in (1, 4):  # dropped before the loss is complete, after it, or both
            continue
        loss = manager.loss(loss) if way == "loss" else loss
        if place == 2:
            continue
        optimizer.zero_grad()
        loss.backward()
        reference.load_state_dict(student.state_dict())
        reference.zero_grad()
        logits = reference(x)
        explicit(F.cross_entropy(logits, y), logits, master, x).backward()
        assert_alike(student, reference)
        optimizer.step()


def test_a_dropped_batch_is_freed_before_the_next_forward():
    student, _, _, data, _, manager = setup()
    F.cross_entropy(student(data[0][0]), data[0][1])
    seen = []
    layer = student[0]
    handle = layer.register_forward_pre_hook(lambda *_: seen.append(manager.run.losses.link.tally.newest()))
    student(data[1][0])
    handle.remove()
    assert seen == [None]


def test_two_losses_of_one_forward_through_a_wrapped_criterion():
    """As with auxiliary classifiers: each loss is weighed, the terms are added once."""
    student, master, reference, data, optimizer, manager = setup()
    criterion = manager.wrap_criterion(F.cross_entropy)
    x, y = data[0]
    logits = student(x)
    (criterion(logits, y) + 0.3 * criterion(2 * logits, y)).backward()
    own = reference(x)
    explicit(F.cross_entropy(own, y) + 0.3 * F.cross_entropy(2 * own, y), own, master, x).backward()
    assert_alike(student, reference)
    optimizer.step()


def test_a_step_whose_gradients_went_past_the_terms_is_refused():
    student, _, _, data, optimizer, _ = setup()
    hidden = []
    handle = student[0].register_forward_hook(lambda *args: hidden.append(args[2]))
    loss = F.cross_entropy(student(data[0][0]), data[0][1])
    handle.remove()
    (part,) = torch.autograd.grad(loss, hidden)
    hidden[0].backward(part)
    with pytest.raises(ParedownError, match="reached a gradient in none"):
        optimizer.step()


def test_functional_gradients_are_refused_while_something_is_distilled():
    student, _, _, data, _, _ = setup()
    weights = dict(student.named_parameters())

    def loss(weights):
        return F.cross_entropy(torch.func.functional_call(student, weights, (data[0][0],)), data[0][1])

    with pytest.raises(ParedownError, match=r"torch\.func.*model\.eval"):
        torch.func.grad(loss)(weights)
    student.eval()
    torch.func.grad(loss)(weights)


@pytest.fixture
def compiled():
    torch._dynamo.reset()
    student, master, reference, data, optimizer, manager = setup(torch.float32)
    return torch.compile(student, backend="aot_eager", fullgraph=True), student, data, optimizer, manager


def test_compiled_forwards_that_are_dropped_are_none(compiled):
    forward, student, data, optimizer, manager = compiled
    for place, (x, y) in enumerate(data[:4]):
        loss = F.cross_entropy(forward(x), y)
        if place in (0, 2):
            continue
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert manager.run.step == 2


@pytest.mark.parametrize("of", ["inputs", "weights"])
def test_compiled_gradients_by_name_are_refused_before_the_step(compiled, of):
    forward, student, data, optimizer, manager = compiled
    x, y = data[0][0].clone().requires_grad_(), data[0][1]
    torch.autograd.grad(F.cross_entropy(forward(x), y), x if of == "inputs" else list(student.parameters()))
    F.cross_entropy(forward(x), y).backward()
    with pytest.raises(ParedownError, match=r"autograd\.grad.*compiled.*eval"):
        optimizer.step()


def test_a_compiled_peer_of_another_loss_is_refused_before_the_step():
    torch._dynamo.reset()
    student, _, _, data, optimizer, _ = setup(torch.float32, {"type": "mutual_learning", "weight": 0.5}, teacher=False)
    forward = torch.compile(student, backend="aot_eager", fullgraph=True)
    x, y = data[0]
    F.cross_entropy(forward(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()
    nn.MultiMarginLoss()(forward(x), y).backward()
    with pytest.raises(ParedownError, match="no softmax cross-entropy"):
        optimizer.step()
