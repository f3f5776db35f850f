"""Defects that an adversarial round found in structured pruning, one test each."""

import copy
from contextlib import nullcontext

import pytest
import torch
from sample_models import recipe_of
from torch import nn

from paredown import Recipe, ScheduledManager


def shrunk(model, inputs, kind="channel_pruning", missed=None, **fields):
    """Apply a modifier; ``missed``: what it is warned of that could not be reached."""
    fields = {"final_sparsity": 0.5, "scope": "local", **fields}
    if kind == "channel_pruning":
        fields.setdefault("round_to", 1)
    manager = ScheduledManager(Recipe.load(recipe_of(1, p={"type": kind, **fields})))
    with pytest.warns(match=missed) if missed else nullcontext():
        manager.apply(model, example_inputs=inputs, strict=missed is None)
    return manager


def test_integers_that_only_look_like_sizes_stay():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=2
    )
    model = transformers.BertForSequenceClassification(config).eval()
    ids = torch.randint(0, 64, (2, 6))
    shrunk(model, {"input_ids": ids}, "head_pruning")
    assert model.num_labels == 2
    assert torch.isfinite(model(input_ids=ids, labels=torch.tensor([0, 1])).loss)


def test_a_window_as_long_as_a_width_stays():
    class Windowed(nn.Module):
        def __init__(self):
            super().__init__()
            self.window = 16
            self.embedding = nn.Embedding(20, 8)
            self.inner, self.out = nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, tokens):
            return self.out(torch.relu(self.inner(self.embedding(tokens[:, -self.window :])))).mean(1)

    torch.manual_seed(0)
    model = Windowed()
    shrunk(model, (torch.randint(0, 20, (2, 8)),), targets=["inner"])
    assert model.inner.weight.shape[0] == 8
    assert model.window == 16


@pytest.mark.parametrize("filler", [-1e9, float("-inf")])
def test_masked_out_scores_do_not_blind_the_comparison(filler):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x):
            q, k, v = self.q(x), self.k(x), self.v(x)
            y = self.out((q @ k.mT / q.size(-1) ** 0.5).softmax(-1) @ v)
            legal = torch.arange(8) < 7
            return y.masked_fill(~legal, filler)

    torch.manual_seed(0)
    model, x = Attention().eval(), torch.randn(2, 5, 8)
    dense = copy.deepcopy(model)
    manager = shrunk(model, (x,), missed="sparsity 0.25 was reached, 0.5 was wanted .*differs")
    with torch.no_grad():
        for record in manager.run.surgery.records:
            if record["operation"] == "shrink":
                tensor = dense.get_parameter(record["tensor"])
                gone = [i for i in range(tensor.shape[record["dimension"]]) if i not in record["kept"].tolist()]
                tensor.index_fill_(record["dimension"], torch.tensor(gone), 0)
    assert model.v.weight.shape[0] == 4
    torch.testing.assert_close(model(x), dense(x), rtol=1e-4, atol=1e-5)


def test_buffers_that_a_forward_binds_anew_are_as_they_were():
    class Average(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)
            self.register_buffer("e", torch.zeros(16))

        def forward(self, x):
            y = torch.relu(self.a(x))
            self.e = 0.9 * self.e + 0.1 * y.detach().mean(0)
            return self.b(y - self.e)

    torch.manual_seed(0)
    model, x = Average(), torch.randn(4, 8)
    before = model.e
    fields = {"type": "channel_pruning", "final_sparsity": 0.5, "round_to": 1}
    ScheduledManager(Recipe.load(recipe_of(1, p=fields))).plan(model, example_inputs=(x,))
    assert model.e is before
    assert torch.equal(model.e, torch.zeros(16))
    model(x)


class Block(nn.Module):
    def __init__(self, width=8, level=0):
        super().__init__()
        self.level, self.inner = level, nn.Linear(width, width)
        self.act = nn.Tanh()

    def forward(self, x):
        return x + 0.1 * self.act(self.inner(x)) * 2**self.level


def test_a_part_of_a_sequential_keeps_its_keys():
    torch.manual_seed(0)
    body = nn.Sequential(*[Block() for _ in range(10)])[6:]
    with torch.no_grad():
        for place in (0, 1):
            list(body)[place].inner.weight.zero_()
            list(body)[place].inner.bias.zero_()
    model, x = nn.Sequential(nn.Linear(8, 8), body), torch.randn(3, 8)
    kept = list(body)[2:]
    want = model(x)
    shrunk(model, (x,), "layer_pruning", targets=["1"])
    assert [id(each) for each in model[1]] == [id(each) for each in kept]
    torch.testing.assert_close(model(x), want)


def test_lists_of_tokens_in_a_config_are_not_cut():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        eos_token_id=[1, 2, 3, 5],
    )
    model = transformers.LlamaForCausalLM(config).eval()
    shrunk(model, {"input_ids": torch.randint(0, 64, (1, 6))}, "layer_pruning")
    assert model.config.num_hidden_layers == 2
    assert model.config.eos_token_id == [1, 2, 3, 5]


def test_layers_that_training_reads_by_number_stay():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(Block() for _ in range(6))
            self.aux, self.out = nn.Linear(8, 2), nn.Linear(8, 2)

        def forward(self, x):
            states = []
            for layer in self.layers:
                states.append(x := layer(x))
            return (self.out(x), self.aux(states[3])) if self.training else self.out(x)

    torch.manual_seed(0)
    model, x = Deep(), torch.randn(3, 8)
    missed = "sparsity 0.3333 was reached, 0.9 was wanted .*its code fails"
    shrunk(model, (x,), "layer_pruning", missed, final_sparsity=0.9, scope="global")
    assert len(model.layers) == 4
    model.train()(x)


def test_a_forward_that_refuses_zeros_is_a_reason():
    class Proud(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x):
            if not torch.compiler.is_compiling() and bool((self.a.weight == 0).any()):
                raise ValueError("zeros")
            return self.d(torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x)))))))

    model = Proud()
    manager = shrunk(model, (torch.randn(2, 8),), missed="sparsity 0.25 was reached, 0.5", targets=["a", "c"])
    assert model.a.weight.shape[0] == 16
    assert model.c.weight.shape[0] == 8
    assert any("with zeros in their place its code fails" in str(event.get("reason")) for event in manager.events)


def test_tied_layers_with_biases_of_their_own_know_their_sizes():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(3))
            self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 2, 1)
            self.c.weight = self.b.weight

        def forward(self, x):
            x = torch.relu(self.a(self.stem(x)))
            x = torch.relu(x + self.b(x))
            return self.head(torch.relu(x + self.c(x)))

    torch.manual_seed(0)
    model = Tied()
    shrunk(model, (torch.randn(2, 3, 6, 6),))
    for layer in (model.b, model.c):
        assert tuple(layer.weight.shape[:2]) == (layer.out_channels, layer.in_channels)
    assert model.c.weight is model.b.weight
    assert model.b.out_channels == 8


def test_layers_that_a_loop_counts_can_go():
    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.depth = 4
            self.layers = nn.ModuleList(Block() for _ in range(4))

        def forward(self, x):
            for place in range(self.depth):
                x = self.layers[place](x)
            return x

    model = Counted()
    shrunk(model, (torch.randn(2, 8),), "layer_pruning")
    assert len(model.layers) == model.depth == 2


def test_a_number_that_means_something_else_is_not_changed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(*[Block(level=level) for level in range(4)]))
    levels = {id(block): block.level for block in model[1]}
    shrunk(model, (torch.randn(2, 8),), "layer_pruning", targets=["1"])
    assert len(model[1]) == 2
    assert all(block.level == levels[id(block)] for block in model[1])


def test_a_linear_layer_with_heads_of_its_own():
    class Headed(nn.Linear):
        def __init__(self):
            super().__init__(8, 16)
            self.heads = 16

        def forward(self, x):
            return super().forward(x).view(*x.shape[:-1], self.heads, 1).squeeze(-1)

    model = nn.Sequential(Headed(), nn.ReLU(), nn.Linear(16, 3))
    shrunk(model, (torch.randn(2, 8),))
    assert model[0].heads == model[0].out_features == 8


def test_an_attribute_that_hardly_shows_in_the_outputs_is_changed_too():
    class Attention(nn.Module):
        """With weights so small that attention is nearly uniform, however the channels are divided into heads."""

        def __init__(self):
            super().__init__()
            self.heads = 4
            self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
            for layer in (self.q, self.k):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.normal_(layer.bias, std=0.02)

        def forward(self, x):
            q, k, v = (
                layer(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for layer in (self.q, self.k, self.v)
            )
            y = nn.functional.scaled_dot_product_attention(q, k, v)
            return x + self.out(y.transpose(1, 2).flatten(2))

    torch.manual_seed(0)
    model = Attention().eval()
    shrunk(model, (torch.randn(2, 5, 16),), "head_pruning")
    assert model.q.weight.shape[0] == 8
    assert model.heads == 2
