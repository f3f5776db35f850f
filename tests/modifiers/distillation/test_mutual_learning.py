"""Peers beside an explicit sum of losses, and their optimizers beside torch's own."""

import copy

import pytest
import torch
from distilling import gradient, manager_of, sgd
from resuming import assert_resumes, going
from sample_models import batches, conv_net, mlp, train
from torch import nn
from torch.nn import functional as F

from paredown import ParedownError, RecipeError, TargetError

MUTUAL = "mutual_learning"


def kl(student, teacher, temperature):
    soft = [F.log_softmax(z / temperature, -1) for z in (student, teacher.detach())]
    return F.kl_div(*soft, log_target=True, reduction="batchmean") * temperature**2


def explicit(outputs, criterion, y, weight, temperature):
    total = 0
    for place, own in enumerate(outputs):
        others = [other for at, other in enumerate(outputs) if at != place]
        said = sum(kl(own, other, temperature) for other in others) / len(others)
        total = total + (1 - weight) * criterion(own, y) + weight * said
    return total


def setup(dtype=torch.float64, peers=2, weight=0.4, temperature=2.0, **modify):
    student = mlp(seed=5).to(dtype)
    manager = manager_of(MUTUAL, peers=peers, weight=weight, temperature=temperature)
    optimizer = sgd(student)
    manager.modify(student, optimizer, 10, **modify)
    networks = [student, *manager.run.modules.of("distill").values()]
    return manager, optimizer, networks, [(x.to(dtype), y) for x, y in batches()]


@pytest.mark.parametrize("way", ["automatic", "loss", "criterion"])
@pytest.mark.parametrize("accumulate", [None, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_of_each_network(way, accumulate, smoothing):
    manager, _, networks, data = setup(accumulate=accumulate)
    references, k = copy.deepcopy(networks), accumulate or 1
    own = nn.CrossEntropyLoss(label_smoothing=smoothing)
    criterion = manager.wrap_criterion(own) if way == "criterion" else own
    for x, y in data[:k]:
        (explicit([network(x) for network in references], own, y, 0.4, 2.0) / k).backward()
        loss = criterion(networks[0](x), y)
        ((manager.loss(loss) if way == "loss" else loss) / k).backward()
    for network, reference in zip(networks, references, strict=True):
        assert (gradient(network) - gradient(reference)).abs().max() < 1e-12


def test_the_gradient_under_a_scaler_and_compiled():
    torch._dynamo.reset()
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    manager, optimizer, networks, data = setup(torch.float32, grad_scaler=scaler)
    references = copy.deepcopy(networks)
    forward = torch.compile(networks[0], backend="aot_eager", fullgraph=True)
    x, y = data[0]
    explicit([network(x) for network in references], F.cross_entropy, y, 0.4, 2.0).backward()
    scaler.scale(F.cross_entropy(forward(x), y)).backward()
    for network, reference in zip(networks, references, strict=True):
        assert (gradient(network) / 512 - gradient(reference)).abs().max() < 1e-6
    before = [p.clone() for p in networks[1].parameters()]
    slopes = [p.grad / 512 for p in networks[1].parameters()]
    scaler.step(optimizer)
    for p, b, slope in zip(networks[1].parameters(), before, slopes, strict=True):
        assert torch.allclose(p, b - 0.1 * slope, atol=1e-7)
    assert all(p.grad is None for p in networks[1].parameters())


def test_peers_take_the_steps_of_an_optimizer_like_the_loops():
    """Groups by name, settings that a scheduler changes, and all steps beside an optimizer of torch's."""
    student = mlp(seed=5).double()
    groups = [
        {"params": [p for name, p in student.named_parameters() if "bias" not in name], "weight_decay": 0.1},
        {"params": [p for name, p in student.named_parameters() if "bias" in name], "lr": 0.03},
    ]
    optimizer = torch.optim.AdamW(groups, 0.01)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    manager = manager_of(MUTUAL, weight=0.4, temperature=2.0)
    manager.modify(student, optimizer, 10)
    (peer,) = manager.run.modules.of("distill").values()
    networks = copy.deepcopy([student, peer])
    theirs = []
    for network in networks:
        split = [
            {"params": [p for name, p in network.named_parameters() if ("bias" in name) == bias], **more}
            for bias, more in ((False, {"weight_decay": 0.1}), (True, {"lr": 0.03}))
        ]
        theirs.append(torch.optim.AdamW(split, 0.01))
    schedules = [torch.optim.lr_scheduler.ExponentialLR(one, 0.5) for one in theirs]
    for x, y in batches(6):
        optimizer.zero_grad()
        F.cross_entropy(student(x.double()), y).backward()
        optimizer.step()
        schedule.step()
        for one in theirs:
            one.zero_grad()
        explicit([network(x.double()) for network in networks], F.cross_entropy, y, 0.4, 2.0).backward()
        for one, each in zip(theirs, schedules, strict=True):
            one.step()
            each.step()
    for ours, reference in zip([student, peer], networks, strict=True):
        assert all(
            torch.allclose(a, b, atol=1e-12) for a, b in zip(ours.parameters(), reference.parameters(), strict=True)
        )


def test_peers_differ_and_the_users_generator_is_as_it_was():
    torch.manual_seed(3)
    want = torch.rand(3)
    torch.manual_seed(3)
    manager, _, networks, _ = setup()
    setup_of_others = [torch.cat([p.flatten() for p in network.parameters()]) for network in networks]
    assert len({tuple(flat[:5].tolist()) for flat in setup_of_others}) == 3
    mlp(seed=3)
    torch.manual_seed(3)
    other = manager_of(MUTUAL)
    student = conv_net()
    torch.manual_seed(3)
    other.modify(student, sgd(student), 10)
    assert torch.equal(torch.rand(3), want)


def test_peers_that_are_given():
    student, peer = mlp(seed=5), mlp(width=8, seed=1)
    before = copy.deepcopy(peer.state_dict())
    manager, optimizer = manager_of(MUTUAL), sgd(student)
    manager.modify(student, optimizer, 10, teacher={"distill": peer})
    train(student, optimizer, batches())
    assert not any(torch.equal(v, before[k]) for k, v in peer.state_dict().items())
    assert len(manager.run.modules.of("distill")) == 1
    manager.release()
    with pytest.raises(TargetError, match="a peer is a module, not a str"):
        manager_of(MUTUAL).modify(student, optimizer, 10, teacher={"distill": "peer.pt"})
    manager = manager_of(MUTUAL)
    manager.modify(student, optimizer, 10, teacher={"distill": mlp(outputs=7)})
    with pytest.raises(TargetError, match=r"\(8, 4\), a peer's \(8, 7\)"):
        student(batches()[0][0])


def test_frozen_parameters_stay_frozen_in_the_peers():
    student = mlp(seed=5)
    student[0].requires_grad_(False)
    optimizer = sgd(student)
    manager = manager_of(MUTUAL)
    manager.modify(student, optimizer, 10)
    (peer,) = manager.run.modules.of("distill").values()
    before = copy.deepcopy(peer.state_dict())
    train(student, optimizer, batches())
    same = {name: torch.equal(value, before[name]) for name, value in peer.state_dict().items()}
    assert same == {name: name.startswith("0.") for name in before}


def test_another_loss_is_an_error_before_a_step():
    manager, optimizer, networks, data = setup()
    before = [p.clone() for p in networks[1].parameters()]
    x, y = data[0]
    with pytest.raises(ParedownError, match="no softmax cross-entropy of the logits"):
        (networks[0](x) - F.one_hot(y, 4)).square().mean().backward()
    assert all(torch.equal(p, b) for p, b in zip(networks[1].parameters(), before, strict=True))


def test_a_step_that_the_scaler_skips_is_skipped_by_the_peers():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    manager, optimizer, networks, data = setup(torch.float32, grad_scaler=scaler)
    before = [p.clone() for p in networks[1].parameters()]
    x, y = data[0]
    scaler.scale(F.cross_entropy(networks[0](x), y) * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(p, b) for p, b in zip(networks[1].parameters(), before, strict=True))
    assert all(p.grad is None for p in networks[1].parameters())
    optimizer.zero_grad()
    scaler.scale(F.cross_entropy(networks[0](x), y)).backward()
    scaler.step(optimizer)
    assert not any(torch.equal(p, b) for p, b in zip(networks[1].parameters(), before, strict=True))


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_resume_in_the_middle_of_the_window(kind, tmp_path):
    def begun():
        student = conv_net(1)
        student.head = nn.Sequential(nn.Dropout(0.2), student.head)
        optimizer = kind(student.parameters(), 1e-2)
        manager = manager_of(MUTUAL, 5, peers=2, start=1, end=4)
        manager.modify(student, optimizer, 4)
        return student, optimizer, manager

    go = going(batches(4, image=True))

    torch.manual_seed(0)
    state = torch.get_rng_state()

    def begun_alike():
        torch.set_rng_state(state)
        parts = begun()
        torch.manual_seed(1)
        return parts

    assert_resumes(begun_alike, go, 20, (0, 4, 5, 10, 15, 16, 19), tmp_path)


def test_a_hugging_face_model_gives_its_own_loss():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=8, vocab_size=20, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    student = transformers.GPT2LMHeadModel(config).double()
    manager, optimizer = manager_of(MUTUAL, weight=0.4), sgd(student)
    manager.modify(student, optimizer, 10)
    (peer,) = manager.run.modules.of("distill").values()
    networks = copy.deepcopy([student, peer])
    ids = torch.arange(12).view(3, 4)
    labels = ids.clone()
    labels[:, 2] = -100
    student.train()(input_ids=ids, labels=labels).loss.backward()
    outs = [network.train()(input_ids=ids, labels=labels) for network in networks]
    kept = torch.cat([labels[:, 1:], torch.full((3, 1), -100)], 1) >= 0
    logits = [out.logits[kept] for out in outs]
    total = sum(0.6 * out.loss for out in outs) + 0.4 * (kl(*logits, 1.0) + kl(*logits[::-1], 1.0))
    total.backward()
    for ours, reference in zip([student, peer], networks, strict=True):
        assert (gradient(ours) - gradient(reference)).abs().max() < 1e-12


def test_nothing_is_left_behind():
    student = mlp()
    optimizer, manager = sgd(student), manager_of(MUTUAL, peers=2)
    manager.modify(student, optimizer, 10)
    assert list(student.state_dict()) == list(mlp().state_dict())
    train(student, optimizer, batches(), 4)
    manager.finalize()
    assert type(student) is nn.Sequential
    assert not manager.run.modules.of("distill")
    assert len(optimizer.param_groups) == 1


def test_mistakes():
    with pytest.raises(RecipeError, match="must be at least 1"):
        manager_of(MUTUAL, peers=0)
    with pytest.raises(RecipeError, match="above 0"):
        manager_of(MUTUAL, temperature=0)

    class Own(torch.optim.SGD):
        def __init__(self, parameters, rate, secret):
            super().__init__(parameters, rate)

    student = mlp()
    with pytest.raises(ParedownError, match="no second Own can be built"):
        manager_of(MUTUAL).modify(student, Own(student.parameters(), 0.1, secret=1), 10)
    assert type(student) is nn.Sequential
