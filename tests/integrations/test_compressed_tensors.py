"""Folders that transformers loads through compressed-tensors."""

import json

import pytest
import torch
from sample_models import mlp, recipe_of

from paredown import Recipe, ScheduledManager
from paredown.framework.errors import ExportError

transformers = pytest.importorskip("transformers")
helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
from paredown.integrations.compressed_tensors import export  # noqa: E402
from paredown.integrations.export.compressed_layers import pack  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
TOKENS = {"input_ids": torch.arange(16).reshape(2, 8)}


def llama(**more):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, **more,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def quantized(model, kind="weight_quantization", targets=("Linear",), ignore=("lm_head",), **fields):
    recipe = recipe_of(1, quantize={"type": kind, "targets": list(targets), "ignore": list(ignore), **fields})
    ScheduledManager(Recipe.load(recipe)).apply(model, data=[TOKENS] * 2)
    return model.eval()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("columns", [32, 33])
def test_codes_are_packed_as_the_package_packs_them(bits, columns):
    codes = torch.randint(-(1 << bits - 1), 1 << bits - 1, (5, columns), dtype=torch.int8)
    assert torch.equal(pack(codes, bits), helpers.pack_to_int32(codes, bits))


@pytest.mark.parametrize(
    ("scheme", "form"),
    [
        ({"bits": 8}, "int-quantized"),
        ({"bits": 8, "granularity": "tensor"}, "int-quantized"),
        ({"bits": 8, "group_size": 32}, "pack-quantized"),
        ({"bits": 4}, "pack-quantized"),
        ({"bits": 4, "group_size": 32}, "pack-quantized"),
        ({"format": "fp8_e4m3"}, "float-quantized"),
    ],
)
def test_weights_come_back_exactly(tmp_path, scheme, form):
    result = export(quantized(llama(), weights=scheme), tmp_path, example_inputs=TOKENS)
    assert result.agreement.difference == 0
    assert result.bytes < result.reference_bytes
    written = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert written["format"] == form
    assert written["ignore"] == ["lm_head"]


@pytest.mark.parametrize("kind", ["static_quantization", "dynamic_quantization"])
def test_quantized_inputs_come_back_exactly(tmp_path, kind):
    result = export(quantized(llama(), kind, weights={"bits": 8}), tmp_path, example_inputs=TOKENS)
    assert result.agreement.difference <= 1e-6


def test_tables_and_a_tied_head(tmp_path):
    model = quantized(llama(tie_word_embeddings=True), targets=["Linear", "Embedding"], ignore=[], weights={"bits": 4})
    assert export(model, tmp_path, example_inputs=TOKENS).agreement.difference == 0
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_plain_model_is_a_plain_folder(tmp_path):
    assert export(llama(), tmp_path).agreement.difference == 0
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_it_generates(tmp_path):
    model = quantized(llama(), weights={"bits": 4, "group_size": 32})
    export(model, tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(loaded.generate(**TOKENS, **options), model.generate(**TOKENS, **options))


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        ({"bits": 8, "symmetric": False}, "asymmetric"),
        ({"bits": 3}, "3 bits are not written"),
        ({"format": "fp4_e2m1", "group_size": 32}, "fp4_e2m1"),
        ({"bits": 8, "block": [32, 32]}, "block"),
    ],
)
def test_what_has_no_form_there_is_an_error_with_the_layer(tmp_path, scheme, reason):
    model = quantized(llama(), weights=scheme)
    with pytest.raises(ExportError, match=rf"model\.layers\.0\.self_attn\.q_proj \(Linear\) cannot .*{reason}"):
        export(model, tmp_path)


def test_other_models_have_no_configuration(tmp_path):
    with pytest.raises(ExportError, match="no model of transformers"):
        export(mlp(), tmp_path)
