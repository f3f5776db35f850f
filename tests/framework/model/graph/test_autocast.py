import pytest
import torch
from sample_models import batches, conv_net, recipe_of
from torch import nn

from paredown import Recipe, ScheduledManager
from paredown.framework.model.graph.trace import export_graph, operator_name

X = batches(1, image=True)[0][0]


class Autocast(nn.Module):
    """Computes a network in a lower precision, or a part of it in float32 again."""

    def __init__(self, nested):
        super().__init__()
        self.net, self.nested = conv_net(), nested

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            x = self.net.norm(self.net.stem(x))
            with torch.autocast("cpu", enabled=not self.nested):
                halves = torch.relu(self.net.body(torch.relu(x.float()))).chunk(2)
        return self.net.head(torch.cat(halves).float().mean((2, 3)))


@pytest.mark.parametrize("nested", [False, True])
def test_the_graph_has_what_a_region_computes(nested):
    model = Autocast(nested)
    graph = export_graph(model, X)
    names = [operator_name(node) for node in graph.nodes]
    assert [name for name in names if name in ("conv2d", "batch_norm", "chunk", "cat", "linear")] == [
        *("conv2d", "batch_norm", "conv2d", "chunk", "cat", "linear")
    ]
    assert "wrap_with_autocast" not in names
    places = {node: place for place, node in enumerate(graph.nodes)}
    assert all(places[given] < places[node] for node in graph.nodes for given in node.all_input_nodes)
    assert graph.calls_of("net.body") == 1


@pytest.mark.parametrize("nested", [False, True])
def test_channels_in_a_region_are_cut(nested):
    model = Autocast(nested)
    cut = {"type": "channel_pruning", "final_sparsity": 0.5, "scope": "local", "round_to": 1}
    with torch.no_grad():
        for weight in (model.net.stem.weight, model.net.body.weight):
            weight[::2] = 0
        model.net.norm.bias[::2] = model.net.body.bias[::2] = model.net.stem.bias[::2] = 0
        model.eval()
        before = model(X)
        ScheduledManager(Recipe.load(recipe_of(1, cut=cut))).apply(model, example_inputs=(X,))
        assert (model.net.stem.out_channels, model.net.body.out_channels) == (4, 8)
        assert torch.allclose(model(X), before, rtol=0.02, atol=0.02)
