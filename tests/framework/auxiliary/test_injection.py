"""The gradient of a cross-entropy elsewhere, read off the one here, against autograd in float64."""

import pytest
import torch
from torch.nn import functional as F

from paredown import ParedownError
from paredown.framework.auxiliary.forwards import Tally, TrainingForward
from paredown.framework.auxiliary.gradient_transfer import GradientTransfer, softmax_gradient
from paredown.framework.auxiliary.injection import Controls, inject

ROWS, CLASSES = 12, 5


def drawn(seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    own, other = (scale * torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64) for _ in range(2))
    return own.requires_grad_(), other.requires_grad_(), torch.randint(0, CLASSES, (ROWS,), generator=generator)


def ignored(y):
    return torch.where(torch.arange(ROWS) % 3 == 0, -100, y)


def soft(y):
    mixed = 0.7 * F.one_hot(y, CLASSES) + 0.3 * F.one_hot((y + 1) % CLASSES, CLASSES)
    return mixed.double()


CLASS_WEIGHTS = torch.tensor([0.1, 0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
LOSSES = {
    "mean": F.cross_entropy,
    "sum": lambda z, y: F.cross_entropy(z, y, reduction="sum"),
    "smoothed": lambda z, y: F.cross_entropy(z, y, label_smoothing=0.2),
    "ignored": lambda z, y: F.cross_entropy(z, ignored(y)),
    "ignored, sum": lambda z, y: F.cross_entropy(z, ignored(y), reduction="sum"),
    "soft targets": lambda z, y: F.cross_entropy(z, soft(y)),
    "class weights": lambda z, y: F.cross_entropy(z, y, weight=CLASS_WEIGHTS),
    "scaled without a word": lambda z, y: 1024 * F.cross_entropy(z, y),
    "a part of the rows": lambda z, y: F.cross_entropy(z[:5], y[:5]),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("scale", [0.01, 2.0, 30.0])
def test_read_off_is_autograds(loss, scale):
    own, other, y = drawn(scale=scale)
    (here,) = torch.autograd.grad(loss(own, y), own)
    (there,) = torch.autograd.grad(loss(other, y), other)
    found, refused = softmax_gradient(own.detach(), other.detach(), here, torch.tensor(1.0), here.dtype)
    assert (found - there).abs().max() <= 1e-10 * max(there.abs().max(), 1)
    assert not refused


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: (z - F.one_hot(y, CLASSES)).square().mean(),
        lambda z, y: F.multi_margin_loss(z, y),
        lambda z, y: F.binary_cross_entropy_with_logits(z, F.one_hot(y, CLASSES).double()),
        lambda z, y: z.square().mean() + F.cross_entropy(z, y),
    ],
    ids=["squared", "margin", "sigmoid", "penalised"],
)
def test_other_losses_are_far_off(loss):
    own, other, y = drawn()
    (here,) = torch.autograd.grad(loss(own, y), own)
    assert softmax_gradient(own.detach(), other.detach(), here, torch.tensor(1.0), here.dtype)[1]


def passed(output, weighted, receiver=None, keep=1.0, explicitly=False):
    controls = Controls.on(torch.device("cpu"), torch.ones((), dtype=torch.float64))
    controls.set_keep(keep)
    forward = TrainingForward(torch.nn.Identity(), [], Tally(), weighted, combined=explicitly)
    return inject(output, weighted, controls, [] if receiver is None else [receiver], forward)


@pytest.mark.parametrize("dimension", [-1, 1])
@pytest.mark.parametrize("explicitly", [False, True])
def test_a_follower_gets_its_share_wherever_the_classes_are(dimension, explicitly):
    generator = torch.Generator().manual_seed(1)
    shape = (3, CLASSES, 4, 2) if dimension == 1 else (3, 4, 2, CLASSES)
    own, other = (torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    y = torch.randint(0, CLASSES, (3, 4, 2), generator=generator)

    def loss(z):
        return F.cross_entropy(z if dimension == 1 else z.movedim(-1, 1), y)

    receiver = GradientTransfer(own, other, torch.tensor(0.3, dtype=torch.float64), dimension)
    logits = passed(own, own.sum() * 0, receiver, 0.4, explicitly)
    (loss(logits) * (0.4 if explicitly else 1.0)).backward()
    (there,) = torch.autograd.grad(loss(other), other)
    (here,) = torch.autograd.grad(loss(own), own)
    assert torch.allclose(other.grad, 0.3 * there, atol=1e-12)
    assert torch.allclose(own.grad, 0.4 * here, atol=1e-12)


def test_a_loss_leads_a_loss():
    own, other = (torch.tensor(value, requires_grad=True) for value in (2.0, 5.0))
    output = {"loss": own, "logits": torch.zeros(2)}
    out = passed(output, own * 0, GradientTransfer(own, other, torch.tensor(0.25)), 0.5)
    (3 * out["loss"]).backward()
    assert (own.grad.item(), other.grad.item()) == (1.5, 0.75)


def test_a_loss_that_is_no_cross_entropy_is_refused():
    own, other, y = drawn()
    logits = passed(own, own.sum() * 0, GradientTransfer(own, other, torch.tensor(1.0), -1))
    with pytest.raises(ParedownError, match="no softmax cross-entropy"):
        (logits - F.one_hot(y, CLASSES)).square().mean().backward()


def test_gradients_that_overflowed_are_left_to_the_scaler():
    own, other, y = drawn()
    logits = passed(own, own.sum() * 0, GradientTransfer(own, other, torch.tensor(1.0), -1))
    (F.cross_entropy(logits, y) * float("inf")).backward()
    assert not torch.isfinite(other.grad).all()


def test_an_output_without_a_gradient_gives_none():
    assert passed({"n": 3, "x": torch.zeros(2)}, torch.zeros(())) is None
