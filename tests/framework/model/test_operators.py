"""Results of operators inside of a forward: counted in eager mode, under torch.compile and in a trace alike."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paredown.framework.model.graph.trace import export_graph, operator_name
from paredown.framework.model.operators import ReplacedFunction, TreatedResults


class Sums(nn.Module):
    """Calls 0 relu, 1 add, 2 relu, 3 add (in place), 4 cat; the sum with a bias and that of a number are not counted."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.shift = nn.Parameter(torch.ones(1, 4, 1, 1))

    def forward(self, x):
        x = F.relu(self.a(x) + 1) + self.shift
        x = torch.relu(x + self.b(x))
        y = self.b(x)
        y += x
        return torch.cat([x, y], 1)


def doubled(x):
    return 2 * x


def by_hand(model, x, call):
    """The same forward with one of its results doubled."""

    def treated(number, value):
        return doubled(value) if number == call else value

    x = treated(0, F.relu(model.a(x) + 1)) + model.shift
    x = treated(2, torch.relu(treated(1, x + model.b(x))))
    return treated(4, torch.cat([x, treated(3, model.b(x) + x)], 1))


class Treated(nn.Module):
    def __init__(self, model, call):
        super().__init__()
        self.model, self.call = model, call

    def forward(self, x):
        with TreatedResults({self.call: doubled}):
            return self.model(x)


@pytest.mark.parametrize("call", range(5))
def test_the_result_of_each_call_can_be_treated(call):
    model, x = Sums(), torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(Treated(model, call)(x), by_hand(model, x, call))


def test_it_works_under_compile_and_in_an_export():
    model, x = Treated(Sums(), 3), torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), model(x))
    torch.testing.assert_close(torch.export.export(model, (x,), strict=False).module()(x), model(x))


def test_a_graph_knows_the_numbers():
    graph = export_graph(nn.Sequential(nn.Conv2d(4, 4, 1), Sums()), (torch.randn(2, 4, 3, 3),))
    numbered = {node: graph.number_of(node, "1") for node in graph.nodes if "1" in graph.stack_of(node)}
    assert [(operator_name(node), number) for node, number in numbered.items() if number is not None] == [
        ("relu", 0), ("add", 1), ("relu", 2), ("add", 3), ("cat", 4)
    ]  # fmt: skip


def test_a_function_is_replaced_where_a_forward_calls_it():
    model, x = nn.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3)
    with ReplacedFunction("lstm", lambda *args: NotImplemented):
        torch.testing.assert_close(model(x)[0], model(x)[0])
    with ReplacedFunction("lstm", lambda x, *args: (x, x, x)):
        assert model(x)[0] is x
