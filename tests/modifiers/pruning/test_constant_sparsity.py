import torch
from sample_models import batches, mlp, recipe_of, train, weights

from paredown import Recipe, ScheduledManager


def test_zeros_stay_and_the_rest_trains():
    model = mlp()
    for weight in weights(model):
        weight.mul_(torch.rand_like(weight) > 0.7)
    before = [weight.clone() for weight in weights(model)]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    manager = ScheduledManager(Recipe.load(recipe_of(2, keep={"type": "constant_sparsity"})))
    manager.modify(model, optimizer, 10)
    train(model, optimizer, batches(), 2, after=lambda: None)
    manager.finalize()
    for now, then in zip(weights(model), before, strict=True):
        assert now[then == 0].eq(0).all()
        assert (now[then != 0] != then[then != 0]).float().mean() > 0.9
