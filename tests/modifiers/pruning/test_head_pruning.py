import pytest
import torch
from architectures import ARCHITECTURES
from sample_models import batches, mlp, recipe_of, token_net, train

from paredown import Recipe, ScheduledManager, TargetError

pytestmark = pytest.mark.filterwarnings("ignore:.*retain_grad.*")
DATA = batches(4, image=True)


def manager_for(epochs=4, **fields):
    return ScheduledManager(
        Recipe.load(recipe_of(epochs, heads={"type": "head_pruning", "final_sparsity": 0.5, **fields}))
    )


@pytest.mark.parametrize("name", ["vit", "swin", "bert", "gpt2", "llama", "llama_tied"])
def test_whole_heads_whose_weights_are_zero_go(name):
    """Two heads (of grouped queries, two groups) of each attention are made zero by hand in the output projection."""
    model, inputs = ARCHITECTURES[name]()
    outputs = {"vit": "attention.out", "swin": "proj", "bert": "attention.output.dense", "gpt2": "attn.c_proj"}
    ends = outputs.get(name, "o_proj")
    projections = [module for path, module in model.named_modules() if path.endswith(ends)]
    with torch.no_grad():
        for module in projections:
            columns = module.weight.t() if name == "gpt2" else module.weight
            columns[:, : columns.shape[1] // 2] = 0
        for path, parameter in model.named_parameters():
            if any(key in path for key in ("q_proj", "k_proj", "v_proj", "self.query", "self.key", "self.value")):
                parameter[: len(parameter) // 2] = 0
            elif "qkv" in path:
                parameter.view(3, 2, -1)[:, 0] = 0
            elif "c_attn" in path:
                parameter.view(-1, 3, 2, 16)[:, :, 0] = 0
            elif path.endswith("attention.table"):
                parameter[:, :2] = 0
    wanted = tensors(model, inputs)
    before = sum(parameter.numel() for parameter in model.parameters())
    manager_for(scope="local").apply(model, example_inputs=inputs)
    assert sum(parameter.numel() for parameter in model.parameters()) < before
    widths = [module.weight.shape[0 if name == "gpt2" else 1] for module in projections]
    full = [module.weight.shape[1 if name == "gpt2" else 0] for module in projections]
    assert widths == [width // 2 for width in full]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(tensors(model, inputs), wanted, strict=True))


def tensors(model, inputs):
    with torch.no_grad():
        output = model.eval()(*inputs)
    return [output if isinstance(output, torch.Tensor) else output.logits]


def test_other_channels_stay():
    model = token_net()
    manager_for(final_sparsity=0.25, scope="local").apply(model, example_inputs=(DATA[0][0],))
    for layer in model.layers:
        assert layer.heads == 3
        assert layer.qkv.out_features == 36
        assert layer.mlp[1].out_features == 32


def test_heads_go_step_by_step_in_training():
    model = token_net()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    manager = manager_for(start=0, end=3, every=1, curve="linear", criterion="taylor")
    manager.modify(model, optimizer, 4, example_inputs=(DATA[0][0],))
    counts = []
    train(model, optimizer, DATA, 4, lambda: counts.append(sum(layer.heads for layer in model.layers)))
    manager.finalize()
    assert counts[::4] == [16, 14, 11, 8]
    assert all(optimizer.state[p]["exp_avg"].shape == p.shape for p in model.parameters())


def test_a_model_without_heads_is_refused():
    with pytest.raises(TargetError, match="nothing can be removed"):
        manager_for().apply(mlp(), example_inputs=(torch.randn(2, 16),))


def test_the_attention_of_torch_is_left_alone_with_the_reason():
    model, inputs = ARCHITECTURES["vit_multihead"]()
    with pytest.raises(TargetError, match="takes the width of its heads from its input"):
        manager_for().apply(model, example_inputs=inputs)
