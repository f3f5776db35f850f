import pytest
import torch
from architectures import ARCHITECTURES
from sample_models import batches, mlp, recipe_of, token_net, train
from torch import nn

import paredown
from paredown import Recipe, ScheduledManager, ScheduleError, TargetError
from paredown.modifiers.pruning.removal.whole_layers import block_influence

DATA = batches(4, image=True)
X = DATA[0][0]


def manager_for(epochs=4, **fields):
    more = {"type": "layer_pruning", **({} if "budget" in fields else {"final_sparsity": 0.5}), **fields}
    return ScheduledManager(Recipe.load(recipe_of(epochs, layers=more)))


def test_block_influence_is_that_of_the_paper():
    a, b = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    by_hand = [
        1 - float((x @ y) / (x.norm() * y.norm())) for x, y in zip(a.reshape(-1, 8), b.reshape(-1, 8), strict=True)
    ]
    assert block_influence(a, b) == pytest.approx(sum(by_hand) / 6, abs=1e-6)
    assert block_influence(a, 3 * a) == pytest.approx(0, abs=1e-12)


def test_layers_that_do_nothing_go_and_the_output_stays():
    model = token_net()
    with torch.no_grad():
        for layer in (model.layers[0], model.layers[2]):
            for last in (layer.out, layer.mlp[-1]):
                last.weight.zero_()
                last.bias.zero_()
    wanted, kept = model.eval()(X), [model.layers[1], model.layers[3]]
    manager_for().apply(model, example_inputs=(X,))
    assert list(model.layers) == kept
    assert torch.equal(model.eval()(X), wanted)


def test_residual_blocks_of_a_convolutional_network_go_where_shapes_agree():
    model, inputs = ARCHITECTURES["resnet18"]()
    manager = manager_for(final_sparsity=0.34)
    plan = str(manager.plan(model, example_inputs=inputs))
    assert "left alone: its input and output are not of one shape" in plan
    manager.apply(model, example_inputs=inputs)
    assert len(model.blocks) == 3
    model.train()(*inputs).sum().backward()


@pytest.mark.parametrize("name", ["llama", "llama_tied", "bert", "gpt2"])
def test_a_config_follows(name, tmp_path):
    model, inputs = ARCHITECTURES[name]()
    manager = manager_for()
    manager.apply(model, example_inputs=inputs)
    assert model.config.num_hidden_layers == 1
    assert not [event for event in manager.events if event["event"] == "configuration"]
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(again(*inputs).logits, model.eval()(*inputs).logits)


def test_numbers_of_layers_follow_so_that_generation_with_a_cache_works():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=48, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
        eos_token_id=None,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    x = torch.randint(0, 64, (1, 5))
    manager_for().apply(model, example_inputs=(x,))
    assert config.num_hidden_layers == 4
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1]
    cached = model.generate(x, max_new_tokens=4, do_sample=False)
    plain = model.generate(x, max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(cached, plain)


def test_the_optimizer_forgets_them_and_a_checkpoint_loads(tmp_path):
    model = token_net()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    manager = manager_for(start=1, end=3, every=1, criterion="magnitude")
    manager.modify(model, optimizer, 4, example_inputs=(X,))
    counts = []
    train(model, optimizer, DATA, 4, lambda: counts.append(len(model.layers)))
    manager.finalize()
    assert counts[0] == 4
    assert counts[-1] == 2
    own = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for group in optimizer.param_groups for parameter in group["params"]} == own
    assert {id(parameter) for parameter in optimizer.state} == own
    paredown.save(tmp_path / "c.pt", model, optimizer, manager)
    loaded = paredown.load(tmp_path / "c.pt", token_net())
    assert torch.equal(loaded.eval()(X), model.eval()(X))


@pytest.mark.parametrize("kind", ["parameters", "macs", "latency"])
def test_budgets(kind):
    model = token_net()
    manager_for(budget={kind: 0.6}).apply(model, example_inputs=(X,))
    assert len(model.layers) in ((2,) if kind != "latency" else (1, 2, 3))


def test_code_that_needs_a_layer_keeps_it():
    class Needs(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3)])

        def forward(self, x):
            return self.layers[2](self.layers[1](self.layers[0](x)))

    model = Needs()
    manager = manager_for()
    with pytest.raises(ScheduleError, match="sparsity 0 was reached, 0.5 was wanted .*its code fails"):
        manager.apply(model, example_inputs=(torch.randn(2, 8),))
    assert len(model.layers) == 3
    told = [event["reason"] for event in manager.events if event["event"] == "left alone"]
    assert len(told) == 3
    assert all("without it its code fails" in reason for reason in told)


def test_a_model_without_layers_is_refused():
    with pytest.raises(TargetError, match="no layer can be removed"):
        manager_for().apply(mlp(), example_inputs=(torch.randn(2, 16),))
