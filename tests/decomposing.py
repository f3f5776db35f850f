"""A manager with one decomposition."""

from sample_models import recipe_of

from paredown import Recipe, ScheduledManager

METHODS = ("svd_decomposition", "tucker_decomposition", "cp_decomposition", "tensor_train_decomposition")


def manager_of(method, rank, epochs=2, guard="none", more=None, **fields):
    low = {"type": method, "rank": rank, "guard": guard, **fields}
    return ScheduledManager(Recipe.load(recipe_of(epochs, low=low, **(more or {}))))
