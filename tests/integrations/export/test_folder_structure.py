"""A folder of transformers that its configuration cannot describe is refused before a file is written."""

import pytest
import torch
from sample_models import recipe_of

from paredown import Recipe, ScheduledManager
from paredown.framework.errors import ExportError

transformers = pytest.importorskip("transformers")
pytest.importorskip("compressed_tensors")
from paredown.integrations.compressed_tensors import export  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
TOKENS = {"input_ids": torch.arange(16).reshape(2, 8)}
INT8 = {"type": "weight_quantization", "targets": ["Linear"], "ignore": ["lm_head"]}


def llama(layers=2):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=256, num_hidden_layers=layers, num_attention_heads=4
    )
    return transformers.LlamaForCausalLM(config).eval()


def applied(model, **modifiers):
    ScheduledManager(Recipe.load(recipe_of(1, **modifiers))).apply(model, data=[TOKENS] * 2, example_inputs=TOKENS)
    return model


def refused(model, folder):
    with pytest.raises(ExportError) as error:
        export(model, folder, example_inputs=TOKENS)
    assert not folder.exists()
    assert "nothing was written" in str(error.value)
    return str(error.value)


def test_uneven_widths_are_named_with_what_makes_them_even(tmp_path):
    model = llama(3)
    model.model.layers[0].mlp.up_proj.weight.data[:128] *= 0.1
    model.model.layers[1].mlp.up_proj.weight.data[:64] *= 0.1
    cut = {"type": "channel_pruning", "targets": ["*mlp*"], "scope": "global", "final_sparsity": 0.25, "round_to": 64}
    applied(model, cut=cut, quantize=INT8)
    widths = {layer.mlp.up_proj.out_features for layer in model.model.layers}
    assert len(widths) == 3
    message = refused(model, tmp_path / "uneven")
    assert all(f"({width}, 64)" in message for width in widths)
    assert "scope: local" in message
    assert "model.layers.*.mlp.up_proj.weight" in message


def test_even_widths_are_written(tmp_path):
    cut = {"type": "channel_pruning", "targets": ["*mlp*"], "scope": "local", "final_sparsity": 0.25, "round_to": 64}
    result = export(applied(llama(), cut=cut, quantize=INT8), tmp_path / "even", example_inputs=TOKENS)
    assert result.agreement.difference == 0


@pytest.mark.parametrize("quantize", [{}, {"quantize": INT8}])
def test_decomposed_layers_are_named(quantize, tmp_path):
    low = {"type": "svd_decomposition", "rank": 8, "guard": "none", "targets": ["*q_proj"]}
    message = refused(applied(llama(), low=low, **quantize), tmp_path / "low")
    assert "model.layers.0.self_attn.q_proj, model.layers.1.self_attn.q_proj consist of other layers" in message


def test_fused_experts_are_named(tmp_path):
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    model = applied(transformers.MixtralForCausalLM(config).eval(), quantize=INT8)
    if not any(name.endswith("experts.gate_up_proj") for name, _ in model.named_parameters()):
        pytest.skip("this version of transformers keeps each expert apart")
    assert "model.layers.0.mlp.experts" in refused(model, tmp_path / "experts")
    applied(
        plain := transformers.MixtralForCausalLM(config).eval(), q={"type": "magnitude_pruning", "final_sparsity": 0.5}
    )
    assert export(plain, tmp_path / "plain", example_inputs=TOKENS).agreement.difference < 1e-5
