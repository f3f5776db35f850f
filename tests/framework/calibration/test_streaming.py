"""A model unit by unit: which units there are, what they are run on, and what is shared."""

import pytest
import torch
from sample_models import batches, conv_net, mlp, training_of
from torch import nn

from paredown import ScheduleError
from paredown.framework.calibration.second_moments import second_moments
from paredown.framework.calibration.streaming import stream
from paredown.modifiers.quantization.gptq import Gptq


def units(model, data, kinds=(nn.Linear, nn.Conv2d), samples=None, forward=None):
    training = training_of(Gptq(), model, data, forward=forward)
    layers = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    for unit in stream(training, layers, samples):
        yield unit, second_moments(training, unit)


def by_hooks(model, data, name):
    seen = []
    hook = model.get_submodule(name).register_forward_pre_hook(
        lambda m, a: seen.append(a[0].reshape(-1, a[0].shape[-1]))
    )
    with torch.no_grad():
        for (x,) in data:
            model(x)
    hook.remove()
    x = torch.cat(seen).double()
    return x.T @ x / len(x), x.mean(0), x.abs().mean(0)


def test_a_sequential_is_a_chain_and_modes_come_back():
    model = mlp().train()
    data = [(x,) for x, _ in batches(3)]
    found = []
    for unit, moments in units(model, data):
        assert not model.training
        for name in unit.layers:
            matrix, mean, magnitude = by_hooks(model, data, name)
            assert torch.allclose(moments[name].matrix[0].double(), matrix, atol=1e-5)
            assert torch.allclose(moments[name].mean[0].double(), mean, atol=1e-5)
            assert torch.allclose(moments[name].magnitude[0].double(), magnitude, atol=1e-5)
            assert moments[name].count == 24
        found.append(unit.layers)
    assert found == [("0",), ("2",), ("4",)]
    assert model.training
    assert type(model[0]) is nn.Linear


def test_without_a_chain_the_whole_model_runs():
    model = conv_net()
    found = [unit.layers for unit, _ in units(model, [(x,) for x, _ in batches(2, image=True)])]
    assert found == [("stem",), ("body",), ("head",)]


def test_samples_limit_the_data():
    data = [(x,) for x, _ in batches(5, size=8)]
    counts = {moments["0"].count for unit, moments in units(mlp(), data, samples=20) if "0" in moments}
    assert counts == {24}  # whole batches, until there are enough


def test_no_data_is_told():
    with pytest.raises(ScheduleError, match="data gave no batch"):
        list(units(mlp(), []))


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_transformers_are_chains_of_their_layers(kind):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "vocab_size": 50,
    }
    if kind == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_key_value_heads=2))
        blocks = [f"model.layers.{place}" for place in range(3)]
    else:
        model = transformers.BertModel(transformers.BertConfig(**sizes))
        blocks = [f"encoder.layer.{place}" for place in range(3)]
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[0, 5:] = 0
    data = [{"input_ids": torch.randint(0, 50, (2, 7)), "attention_mask": mask} for _ in range(2)]
    streamed = list(units(model, data, kinds=(nn.Linear,)))
    chained = [unit for unit, _ in streamed if any(unit.layers[0].startswith(block) for block in blocks)]
    assert len(chained) == 3
    queries = [name for unit in chained for name in unit.layers if name.endswith(("q_proj", "query"))]
    for unit, moments in streamed:
        for name in unit.layers:
            seen = []
            hook = model.get_submodule(name).register_forward_pre_hook(
                lambda m, a, seen=seen: seen.append(a[0].reshape(-1, a[0].shape[-1]))
            )
            model.eval()
            with torch.no_grad():
                for batch in data:
                    model(**batch)
            hook.remove()
            x = torch.cat(seen)
            assert torch.allclose(moments[name].matrix[0], x.T @ x / len(x), atol=1e-5), name
    assert len(queries) == 3
    shared = next(moments for unit, moments in streamed if queries[0] in unit.layers)
    value = queries[0].replace("q_proj", "v_proj").replace("query", "value")
    assert shared[queries[0]] is shared[value]
