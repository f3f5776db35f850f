"""A cross-entropy is told from losses that look like it, and its rows' weights are autograd's, in float64 and below."""

import pytest
import torch
from torch.nn import functional as F

from paredown.framework.auxiliary.gradient_transfer import softmax_gradient

CLASSES = 5
CLASS_WEIGHTS = torch.tensor([0.1, 0.5, 1.0, 2.0, 3.0], dtype=torch.float64)


def drawn(rows, scale=2.0, classes=CLASSES):
    generator = torch.Generator().manual_seed(rows)
    own, other = (scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return own, other, torch.randint(0, classes, (rows,), generator=generator)


def found(z):
    return z.log_softmax(-1)


def true(z, y):
    return found(z).gather(1, y[:, None])[:, 0]


def ignored(y):
    return torch.where(torch.arange(len(y)) % 3 == 0, -100, y)


def mixed(z, y, smoothing=0.0):
    def one_hot(labels):
        return (1 - smoothing) * F.one_hot(labels, z.shape[1]).double() + smoothing / z.shape[1]

    share = torch.linspace(0.5, 1, len(y), dtype=torch.float64)[:, None]
    return (share * one_hot(y) + (1 - share) * one_hot(y.flip(0))).to(z.dtype)


REAL = {
    "mean": F.cross_entropy,
    "sum": lambda z, y: F.cross_entropy(z, y, reduction="sum"),
    "smoothed": lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1),
    "smoothed sum": lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1, reduction="sum"),
    "ignored": lambda z, y: F.cross_entropy(z, ignored(y)),
    "ignored, smoothed": lambda z, y: F.cross_entropy(z, ignored(y), label_smoothing=0.1),
    "ignored, mean of all": lambda z, y: F.cross_entropy(z, ignored(y), reduction="none").mean(),
    "class weights": lambda z, y: F.cross_entropy(z, y, weight=CLASS_WEIGHTS.to(z.dtype)),
    "class weights, ignored": lambda z, y: F.cross_entropy(z, ignored(y), weight=CLASS_WEIGHTS.to(z.dtype)),
    "class weights, sum": lambda z, y: F.cross_entropy(z, y, weight=CLASS_WEIGHTS.to(z.dtype), reduction="sum"),
    "mixed": lambda z, y: F.cross_entropy(z, mixed(z, y)),
    "bootstrapped: a cross-entropy with less weight": lambda z, y: (
        -((0.95 * F.one_hot(y, z.shape[1]) + 0.05 * found(z).exp().detach()) * found(z)).sum(-1).mean()
    ),
    "mixed, smoothed": lambda z, y: F.cross_entropy(z, mixed(z, y, 0.1)),
}
FALSE = {
    "focal": lambda z, y: -((1 - true(z, y).exp()) ** 2 * true(z, y)).mean(),
    "focal, by class": lambda z, y: -(CLASS_WEIGHTS[y] * (1 - true(z, y).exp()) ** 2 * true(z, y)).mean(),
    "poly-1": lambda z, y: F.cross_entropy(z, y) + (1 - true(z, y).exp()).mean(),
    "entropy bonus": lambda z, y: F.cross_entropy(z, y) + 0.1 * (found(z).exp() * found(z)).sum(-1).mean(),
    "entropy bonus, smoothed": lambda z, y: (
        F.cross_entropy(z, y, label_smoothing=0.1) + 0.02 * (found(z).exp() * found(z)).sum(-1).mean()
    ),
    "temperature": lambda z, y: F.cross_entropy(z / 2, y),
    "generalized": lambda z, y: ((1 - true(z, y).exp() ** 0.7) / 0.7).mean(),
    "symmetric": lambda z, y: 0.1 * F.cross_entropy(z, y) + 4 * (1 - true(z, y).exp()).mean(),
    "z loss": lambda z, y: F.cross_entropy(z, y) + 1e-3 * z.logsumexp(-1).square().mean(),
    "weights of samples": lambda z, y: (
        F.cross_entropy(z, y, reduction="none") * torch.linspace(0.5, 2, len(y), dtype=torch.float64)
    ).mean(),
}


def transferred(loss, own, other, y, dtype=torch.float64):
    own, other = (each.to(dtype).requires_grad_() for each in (own, other))
    here, there = (torch.autograd.grad(loss(z.float() if z.dtype.itemsize == 2 else z, y), z)[0] for z in (own, other))
    wide = [each.detach().float() if each.dtype.itemsize == 2 else each.detach() for each in (own, other, here, there)]
    read, refused = softmax_gradient(*wide[:3], torch.tensor(1.0), dtype)
    return (read - wide[3]).norm() / wide[3].norm(), bool(refused)


@pytest.mark.parametrize("loss", REAL.values(), ids=REAL)
@pytest.mark.parametrize("rows", [16, 64])
@pytest.mark.parametrize("scale", [0.02, 1.0, 6.0])
def test_cross_entropies_are_read(loss, rows, scale):
    own, other, y = drawn(rows, scale)
    off, refused = transferred(loss, own, other, y)
    assert not refused
    assert off < 1e-7


@pytest.mark.parametrize("loss", FALSE.values(), ids=FALSE)
@pytest.mark.parametrize("rows", [16, 64])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_what_only_looks_like_one_is_refused(loss, rows, scale):
    assert transferred(loss, *drawn(rows, scale))[1]


@pytest.mark.parametrize("name", ["mean", "smoothed", "ignored", "class weights", "mixed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounded_gradients_are_read(name, dtype):
    own, other, y = drawn(32)
    off, refused = transferred(REAL[name], own, other, y, dtype)
    assert not refused
    assert off < (1e-4 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("name", ["focal", "poly-1", "entropy bonus", "generalized"])
def test_rounded_gradients_of_other_losses_are_refused(name):
    assert transferred(FALSE[name], *drawn(32), torch.float32)[1]


@pytest.mark.parametrize("rows", [16, 64])
@pytest.mark.parametrize("scale", [0.02, 1.0, 6.0])
def test_class_weights_with_smoothing_are_refused(rows, scale):
    """A gradient shows the two only where many rows share their label: refused at once, not when a batch lacks them."""
    own, other, y = drawn(rows, scale)
    assert transferred(lambda z, y: F.cross_entropy(z, y, weight=CLASS_WEIGHTS, label_smoothing=0.1), own, other, y)[1]


@pytest.mark.parametrize("name", ["mean", "smoothed", "class weights"])
def test_two_classes(name):
    own, other, y = drawn(32, 1.0, 2)
    losses = {**REAL, "class weights": lambda z, y: F.cross_entropy(z, y, weight=CLASS_WEIGHTS[:2])}
    off, refused = transferred(losses[name], own, other, y)
    assert not refused
    assert off < 1e-7


@pytest.mark.parametrize("name", ["focal", "poly-1", "entropy bonus"])
def test_other_losses_of_two_classes(name):
    assert transferred(FALSE[name], *drawn(32, 1.0, 2))[1]
