import torch

from paredown.framework.model.optimizers import each_of, layers_of, train_any, wrappers_in


class Plain:
    """A wrapper that is no Optimizer."""

    def __init__(self, optimizer):
        self.optimizer = optimizer


class Inheriting(torch.optim.Optimizer):
    """A wrapper that is one, as Accelerate's."""

    def __init__(self, optimizer):
        self.optimizer = optimizer


def test_wrappers_outermost_first_and_what_is_in_them():
    inner = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), 0.1)
    middle = Inheriting(inner)
    outer = Plain(middle)
    assert layers_of(inner) == [inner]
    assert layers_of(outer) == [outer, middle, inner]
    assert wrappers_in([outer, inner]) == [outer, middle]
    assert each_of(inner) == [inner]


def test_an_attribute_of_that_name_that_is_no_optimizer_ends_the_search():
    inner = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), 0.1)
    inner.optimizer = "sgd"
    assert layers_of(inner) == [inner]


def test_one_parameter_is_enough():
    model, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    ours, theirs = torch.optim.SGD([model.bias], 0.1), torch.optim.SGD(other.parameters(), 0.1)
    assert train_any([theirs, ours], model)
    assert not train_any([theirs], model)
