import random

import pytest
import torch
from torch import nn

from paredown.framework.model.graph.fusion import export_graph
from paredown.modifiers.pruning.removal.channels import analyse, find_frozen, find_groups
from paredown.modifiers.pruning.removal.channels.labels import Labels, Value, axes_of, compressed
from paredown.modifiers.pruning.removal.channels.solving import components
from paredown.modifiers.pruning.removal.channels.walk import meet


def groups_of(model, *inputs):
    analysis = analyse(export_graph(model, inputs), model)
    return find_groups(analysis, {}), find_frozen(analysis, {})


def reference_components(count, pairs):
    parent = list(range(count))

    def root(a):
        while parent[a] != a:
            a = parent[a]
        return a

    for a, b in pairs:
        a, b = root(a), root(b)
        parent[max(a, b)] = min(a, b)
    return [root(a) for a in range(count)]


@pytest.mark.parametrize("seed", range(20))
def test_components_are_those_of_a_plain_union_find(seed):
    generator = random.Random(seed)
    count = generator.randint(1, 60)
    pairs = [(generator.randrange(count), generator.randrange(count)) for _ in range(generator.randint(0, 70))]
    edges = [(torch.tensor([a]), torch.tensor([b])) for a, b in pairs]
    assert components(count, edges).tolist() == reference_components(count, pairs)


def test_labels_take_no_room_where_they_do_not_vary():
    labels = torch.arange(6).view(1, 6, 1).expand(4, 6, 1000)
    assert compressed(labels).shape == (1, 6, 1)
    moved = labels.permute(2, 0, 1).reshape(1000, 24)
    assert compressed(moved).shape == (1, 24)
    assert axes_of(compressed(torch.arange(6).view(2, 3).repeat(1, 2))) == {0, 1}


def test_what_meets_goes_together_and_what_has_a_fixed_size_stays():
    labels = Labels()
    a = Value((2, 4), (labels.new("a", 0, 4).view(1, 4),))
    b = Value((2, 4), (labels.new("b", 0, 4).view(1, 4),))
    assert meet(labels, [a, b], (2, 4), "add").factors[0].equal(a.factors[0])
    assert len(labels.edges) == 1
    assert not labels.frozen
    meet(labels, [a, Value((2, 1))], (2, 4), "mul")
    meet(labels, [a, Value((2, 4), pliable=True)], (2, 4), "mul")
    assert not labels.frozen
    meet(labels, [a, Value((4,))], (2, 4), "mul in head")
    assert "mul in head" in labels.frozen[0][1]


def test_a_group_has_every_slice_that_hangs_on_a_channel():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 5)).eval()
    (group,), frozen = groups_of(model, torch.randn(2, 3, 6, 6))
    assert group.name == "0"
    assert group.units == 8
    slices = {place: indices.tolist()[3] for place, indices in group.slices.items()}
    assert slices == {
        ("0.weight", 0): [3],
        ("0.bias", 0): [3],
        ("1.weight", 0): [3],
        ("1.bias", 0): [3],
        ("1.running_mean", 0): [3],
        ("1.running_var", 0): [3],
        ("3.weight", 1): list(range(48, 64)),
    }
    assert [(each.layer, each.reason) for each in frozen] == [("3", "it is an output of the model")]


def test_heads_go_as_a_whole_with_the_queries_that_share_them():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=6,
        num_key_value_heads=2, head_dim=4,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    groups, frozen = groups_of(model, torch.randint(0, 32, (1, 5)))
    attention, mlp = groups
    assert (attention.units, attention.width, attention.heads) == (2, 12, True)
    places = {place: indices[1].tolist() for place, indices in attention.slices.items()}
    prefix = "model.layers.0.self_attn."
    assert places[f"{prefix}q_proj.weight", 0] == list(range(12, 24))
    assert places[f"{prefix}k_proj.weight", 0] == list(range(4, 8))
    assert places[f"{prefix}o_proj.weight", 1] == list(range(12, 24))
    assert (mlp.units, mlp.heads) == (40, False)
    assert any("input_layernorm" in each.reason for each in frozen)


def test_tied_weights_are_one():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.body, self.head = nn.Embedding(20, 12), nn.Linear(12, 12), nn.Linear(12, 20, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(torch.relu(self.body(self.embed(x))))

    groups, _ = groups_of(Tied(), torch.randint(0, 20, (2, 3)))
    (group,) = groups
    assert set(group.slices) == {("embed.weight", 1), ("body.weight", 0), ("body.weight", 1), ("body.bias", 0)}


def test_an_unknown_operator_is_reported_and_freezes():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.b(torch.linalg.matrix_exp(torch.diag_embed(self.a(x))).diagonal(dim1=-2, dim2=-1))

    model = Own()
    analysis = analyse(export_graph(model, (torch.randn(2, 4),)), model)
    assert "diag_embed" in analysis.unknown
    assert not find_groups(analysis, {})
    assert "diag_embed" in find_frozen(analysis, {})[0].reason


def test_the_analysis_of_a_large_network_takes_no_time():
    import time

    class Block(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.a, self.an = nn.Conv2d(c, c // 4, 1), nn.BatchNorm2d(c // 4)
            self.b, self.bn = nn.Conv2d(c // 4, c // 4, 3, padding=1), nn.BatchNorm2d(c // 4)
            self.c, self.cn = nn.Conv2d(c // 4, c, 1), nn.BatchNorm2d(c)

        def forward(self, x):
            y = torch.relu(self.bn(self.b(torch.relu(self.an(self.a(x))))))
            return torch.relu(x + self.cn(self.c(y)))

    model = nn.Sequential(nn.Conv2d(3, 1024, 3), *[Block(1024) for _ in range(16)]).eval()
    graph = export_graph(model, (torch.randn(1, 3, 16, 16),))
    start = time.thread_time()
    groups = find_groups(analyse(graph, model), {})
    assert time.thread_time() - start < 2
    assert len(groups) == 32


@pytest.mark.parametrize(
    ("groups", "units"),
    [(2, [8, 8]), (4, [4, 4]), (8, [8])],
    ids=["more channels than groups", "as many", "more groups"],
)
def test_grouped_convolutions_lose_places_or_whole_groups(groups, units):
    """Sixteen channels in and out: where inputs and outputs can go apart they do, and what reads the inputs beside."""
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, groups=groups), nn.Conv2d(16, 2, 1))
    found, _ = groups_of(model, torch.randn(1, 3, 5, 5))
    assert [group.units for group in found] == units


def test_grouped_convolutions_that_read_one_tensor_agree():
    """In groups of two and of four: the same places of all groups of both."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 1)
            self.two, self.four = nn.Conv2d(16, 16, 1, groups=2), nn.Conv2d(16, 24, 1, groups=4)

        def forward(self, x):
            x = self.stem(x)
            return self.two(x).mean() + self.four(x).mean()

    found, _ = groups_of(Both(), torch.randn(1, 3, 5, 5))
    assert {group.name: group.units for group in found}["stem"] == 4
