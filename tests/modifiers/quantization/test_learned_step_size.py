"""LSQ: gradients against the paper's formula in float64, and a life beside an optimizer."""

import copy
from itertools import pairwise

import pytest
import torch
from sample_models import batches, conv_net, mlp, recipe_of, train
from torch import nn

import paredown
from paredown import Recipe, RecipeError, ScheduledManager, ScheduleError
from paredown.modifiers.quantization.layers.learned_quantizers import first_weight_scale, learned_round
from paredown.modifiers.quantization.numbers.scheme import ActivationScheme, WeightScheme

LSQ = {"type": "learned_step_size", "weights": {"bits": 4}}


def by_the_paper(x, s, lowest, highest):
    """Eq. 3, element by element."""
    v = x / s
    return torch.where(v <= lowest, lowest, torch.where(v >= highest, highest, v.round() - v))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("sharing", ["tensor", "channel"])
def test_the_gradient_of_the_scale_is_the_papers(bits, sharing):
    torch.manual_seed(0)
    scheme = WeightScheme(bits=bits, narrow=False, granularity=sharing)
    x = torch.randn(6, 50, dtype=torch.float64, requires_grad=True)
    shape = () if sharing == "tensor" else (6, 1)
    s = (torch.rand(shape, dtype=torch.float64) * 0.2 + 0.1).requires_grad_()
    upstream = torch.randn(6, 50, dtype=torch.float64)
    out = learned_round(x, s, torch.zeros_like(s), scheme, 0.25)
    out.backward(upstream)
    lowest, highest = float(scheme.lowest), float(scheme.highest)
    with torch.no_grad():
        expected = (by_the_paper(x, s, lowest, highest) * upstream * 0.25).sum_to_size(s.shape)
        assert torch.allclose(s.grad, expected, atol=1e-12)
        inside = (x / s >= lowest) & (x / s <= highest)
        assert torch.equal(x.grad, upstream * inside)
        assert torch.allclose(out, (x / s).round().clamp(lowest, highest) * s)


def test_the_gradient_of_the_zero_point_is_that_of_the_clipped():
    scheme = ActivationScheme(bits=4)
    x = torch.tensor([-5.0, 0.3, 9.0], dtype=torch.float64)
    s, z = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.25, 3.2))
    out = learned_round(x, s, z, scheme, 1.0)
    assert out.tolist() == pytest.approx([-0.75, 0.25, 3.0])
    out.sum().backward()
    assert z.grad.item() == pytest.approx(-0.5)  # -S for each of the two that are clipped
    assert s.grad.item() == pytest.approx(-3 + 12 + (1 - 1.2))


def test_the_first_scale():
    weight = torch.randn(4, 10)
    scale = first_weight_scale(weight, WeightScheme(bits=4, narrow=False))
    assert torch.allclose(scale, 2 * weight.abs().mean(1, keepdim=True) / 7**0.5)


def run(model, epochs=2, lr=0.01, **fields):
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    manager = ScheduledManager(Recipe.load(recipe_of(epochs, q={**LSQ, **fields})))
    manager.modify(model, optimizer, 10)
    return optimizer, manager


def test_scales_move_and_leave_when_all_is_over():
    model = mlp()
    names = set(model.state_dict())
    optimizer, manager = run(model)
    held = len(optimizer.param_groups[0]["params"])
    assert held == 6 + 3 * 3  # of each layer the weight's scale, the input's and its zero point
    before = model[0].weight_scale.clone()
    train(model, optimizer, batches(), 2)
    assert not torch.equal(model[0].weight_scale, before)
    assert len(list(model.parameters())) == 6
    twin = copy.deepcopy(model).eval()
    x = batches()[0][0]
    assert torch.equal(twin(x), model.eval()(x))
    manager.finalize()
    assert torch.equal(twin(x), model(x))
    assert len(optimizer.param_groups[0]["params"]) == 6
    assert len(optimizer.state) == 6
    added = {f"{n}.{part}" for n in "024" for part in ("weight_scale", "input_scale", "input_zero_point")}
    assert set(model.state_dict()) - names == added
    optimizer.zero_grad()
    model.train()(x).sum().backward()
    optimizer.step()


def test_release_takes_everything_off():
    model = mlp()
    optimizer, manager = run(model)
    train(model, optimizer, batches(), 1)
    manager.release()
    assert len(optimizer.param_groups[0]["params"]) == 6
    assert type(model[0]) is nn.Linear
    assert not list(model.buffers())


def test_a_loaded_model_computes_the_same(tmp_path):
    model = conv_net()
    optimizer, manager = run(model, targets=["Conv2d"])
    train(model, optimizer, batches(image=True), 1)
    paredown.save(tmp_path / "half.pt", model, optimizer, manager)
    loaded = paredown.load(tmp_path / "half.pt", conv_net()).eval()
    x = batches(image=True)[0][0]
    assert torch.equal(loaded(x), model.eval()(x))


def test_scales_can_freeze_early_and_weights_go_on():
    model = mlp()
    optimizer, _ = run(model, freeze_scales=1)
    train(model, optimizer, batches(), 1)
    scale, weight = model[0].weight_scale.clone(), model[0].weight.detach().clone()
    train(model, optimizer, batches(), 1)
    assert torch.equal(model[0].weight_scale, scale)
    assert not torch.equal(model[0].weight, weight)
    assert len(optimizer.param_groups[0]["params"]) == 6


def test_no_step_more_than_doubles_or_halves_a_scale():
    model = mlp()
    optimizer, _ = run(model, lr=100.0)
    seen = [model[0].weight_scale.clone()]
    x, y = batches()[0]
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-6)
        optimizer.step()
        seen.append(model[0].weight_scale.clone())
    for before, after in pairwise(seen):
        assert ((after >= before / 2.001) & (after <= before * 2.001)).all()


def test_a_layer_that_is_never_called_is_named():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(16, 4), nn.Linear(16, 4)

        def forward(self, x):
            return self.used(x)

    model = Idle()
    optimizer, _ = run(model)
    with pytest.raises(ScheduleError, match="no input of idle was seen"):
        train(model, optimizer, batches(), 2)


def test_only_symmetric_integer_weights():
    for weights in ({"format": "fp8_e4m3"}, {"symmetric": False}):
        with pytest.raises(RecipeError, match="learns the scales of integers"):
            Recipe.load(recipe_of(1, q={"type": "learned_step_size", "weights": weights}))
