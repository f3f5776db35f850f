"""Against a loop written out in float64."""

from itertools import pairwise

import torch
from sample_models import batches, mlp, recipe_of
from torch import nn

from paredown import Recipe, ScheduledManager
from paredown.framework.modifier.curves import share_of

LR = 0.5


def data():
    return [(x.double(), y) for x, y in batches(6)]


def reference(steps, every, final):
    """The weights after a run in which scores, values and masks are kept by hand."""
    model = mlp().double()
    layers = [model[0], model[2], model[4]]
    values = [layer.weight.detach().clone() for layer in layers]
    scores = [torch.zeros_like(value) for value in values]
    masks = [torch.ones_like(value) for value in values]
    for step in range(1, steps + 1):
        x, y = data()[(step - 1) % 6]
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= LR * parameter.grad
            for layer, value, score, mask in zip(layers, values, scores, masks, strict=True):
                value.copy_(torch.where(mask == 1, layer.weight, value))
                score -= value * layer.weight.grad
            if step % every == 0:
                share = final * (1 - (1 - step / steps) ** 3)
                flat = torch.cat([score.flatten() for score in scores])
                gone = flat.argsort(stable=True)[: share_of(share, len(flat))]
                kept = torch.ones_like(flat)
                kept[gone] = 0
                for mask, part in zip(masks, kept.split([m.numel() for m in masks]), strict=True):
                    mask.copy_(part.view(mask.shape))
            for layer, value, mask in zip(layers, values, masks, strict=True):
                layer.weight.copy_(value * mask)
    return model, masks


def test_scores_masks_and_what_comes_back():
    want, masks = reference(12, 3, 0.6)
    model = mlp().double()
    optimizer = torch.optim.SGD(model.parameters(), LR)
    fields = {"type": "movement_pruning", "final_sparsity": 0.6, "end": "12 steps", "every": "3 steps"}
    manager = ScheduledManager(Recipe.load(recipe_of(2, p=fields)))
    manager.modify(model, optimizer, 6)
    seen = []
    for step in range(12):
        x, y = data()[step % 6]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        seen.append(model[0].weight.detach() == 0)
    assert any((before & ~after).any() for before, after in pairwise(seen))  # something came back
    for ours, theirs in zip(model.parameters(), want.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(model[place].weight != 0, mask == 1) for place, mask in zip((0, 2, 4), masks, strict=True))
