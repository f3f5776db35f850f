"""Files for llama.cpp, read by the package gguf, and by transformers."""

import pytest
import torch
from sample_models import mlp, recipe_of

import paredown
from paredown import ExportError, Recipe, ScheduledManager
from paredown.framework.engine.plain import eval_copy
from paredown.framework.engine.timing import measure_in
from paredown.integrations.engines.gguf import Gguf
from paredown.modifiers.quantization.layers.quantizers import weight_quantizer

gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")
TOKENS = {"input_ids": torch.arange(32).reshape(2, 16)}
DATA = [{"input_ids": torch.randint(64, (8, 16), generator=torch.Generator().manual_seed(0))} for _ in range(4)]
FOUR, EIGHT = {"bits": 4, "group_size": 32}, {"bits": 8, "group_size": 32}


def model_of(kind="Llama", **more):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "sliding_window": None,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**{**sizes, **more})
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


def quantized(model, kind="weight_quantization", engine="gguf", targets=("Linear",), ignore=("lm_head",), **fields):
    own = {"type": kind, "targets": list(targets), "ignore": list(ignore), **fields}
    recipe = {**recipe_of(1, quantize=own), **({"run": {"engine": engine}} if engine else {})}
    ScheduledManager(Recipe.load(recipe)).apply(model, data=DATA)
    return model.eval()


def written(path):
    """The tensors of a file by name, unpacked by the package, and its types."""
    tensors = gguf.GGUFReader(path).tensors
    values = {each.name: torch.from_numpy(gguf.dequantize(each.data, each.tensor_type)) for each in tensors}
    return values, {each.name: each.tensor_type.name for each in tensors}


def simulated(layer):
    return weight_quantizer(layer).quantized(layer, "weight").detach()


@pytest.mark.parametrize(("weights", "kind"), [(FOUR, "Q4_0"), ({**FOUR, "narrow": False}, "Q4_0"), (EIGHT, "Q8_0")])
def test_weights_are_bit_for_bit_those_that_were_simulated(tmp_path, weights, kind):
    model = quantized(model_of(), weights=weights)
    made = paredown.export(model, TOKENS, tmp_path / "m.gguf", engine="gguf", data=DATA, repetitions=0)
    assert made.agreement.difference == 0
    values, kinds = written(tmp_path / "m.gguf")
    block = model.model.layers[1]
    for name, layer in (("ffn_down", block.mlp.down_proj), ("attn_v", block.self_attn.v_proj)):
        assert kinds[f"blk.1.{name}.weight"] == kind
        assert torch.equal(values[f"blk.1.{name}.weight"], simulated(layer))
    heads = simulated(block.self_attn.q_proj).reshape(4, 2, 8, 64)  # llama.cpp rotates neighbours
    assert torch.equal(values["blk.1.attn_q.weight"].reshape(4, 8, 2, 64), heads.transpose(1, 2))
    assert kinds["token_embd.weight"] == kinds["output.weight"] == kinds["output_norm.weight"] == "F32"
    assert torch.equal(values["token_embd.weight"], model.model.embed_tokens.weight)


@pytest.mark.parametrize(
    "kind", ["static_quantization", "gptq", "awq", "adaround", "quantization_aware_training", "learned_step_size"]
)
def test_what_is_simulated_for_it_is_what_it_computes(tmp_path, kind):
    """Whatever chooses the scales chooses numbers of float16, and leaves inputs in floating point."""
    model, data = model_of(), [(each["input_ids"], each["input_ids"]) for each in DATA]
    few = {"iterations": 10} if kind == "adaround" else {}
    own = {"type": kind, "targets": ["Linear"], "ignore": ["lm_head"], "weights": FOUR, **few}
    manager = ScheduledManager(Recipe.load({**recipe_of(1, quantize=own), "run": {"epochs": 1, "engine": "gguf"}}))
    if kind in ("quantization_aware_training", "learned_step_size"):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        manager.modify(model, optimizer, steps_per_epoch=len(data))
        for tokens, labels in data:
            model(input_ids=tokens, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        manager.finalize()
    else:
        manager.apply(model, data=DATA)
    made = paredown.export(model.eval(), TOKENS, tmp_path / "m.gguf", engine="gguf", data=DATA, repetitions=0)
    assert made.agreement.difference == 0
    assert not any("rounded to float16" in each for each in made.remarks)
    layer = eval_copy(model).model.layers[0].mlp.up_proj
    assert torch.equal(written(tmp_path / "m.gguf")[0]["blk.0.ffn_up.weight"], simulated(layer))


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("Llama", {"head_dim": 32, "rms_norm_eps": 1e-3}),
        ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
        ("Mistral", {"head_dim": 16}),
        ("Qwen2", {}),
        ("Qwen3", {}),
    ],
)
def test_transformers_builds_the_model_from_the_file(tmp_path, kind, more):
    model = model_of(kind, **more)
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases that are not ones and zeros
            parameter.add_(0.05 * torch.randn_like(parameter))
    made = paredown.export(quantized(model, weights=EIGHT), TOKENS, tmp_path / "m.gguf", engine="gguf", repetitions=0)
    assert made.agreement.difference == 0
    assert {row.name for row in made.layers} >= {"model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"}


def test_a_tied_table_is_stored_once_unless_the_head_differs(tmp_path):
    tied = model_of(tie_word_embeddings=True)
    both = quantized(tied, targets=["Linear", "Embedding"], ignore=[], weights=EIGHT)
    paredown.export(both, TOKENS, tmp_path / "both.gguf", engine="gguf", repetitions=0)
    assert written(tmp_path / "both.gguf")[1]["token_embd.weight"] == "Q8_0"
    assert "output.weight" not in written(tmp_path / "both.gguf")[1]
    head = quantized(model_of(tie_word_embeddings=True), ignore=[], weights=EIGHT)
    made = paredown.export(head, TOKENS, tmp_path / "head.gguf", engine="gguf", repetitions=0)
    kinds = written(tmp_path / "head.gguf")[1]
    assert (kinds["token_embd.weight"], kinds["output.weight"]) == ("F32", "Q8_0")
    assert made.agreement.difference == 0


def test_bytes_and_no_speed(tmp_path):
    """A block of 32 weights has 18 bytes: 4.5 bits a weight."""
    model = quantized(model_of(), weights=FOUR)
    made = paredown.export(model, TOKENS, tmp_path / "m.gguf", engine="gguf", data=DATA)
    codes = sum(layer.weight.numel() for layer in model.model.layers.modules() if isinstance(layer, torch.nn.Linear))
    assert made.float_bytes - made.bytes == codes * 4 - codes // 32 * 18
    assert made.latency is None
    assert any("llama.cpp's speed is not measured" in each for each in made.remarks)
    with pytest.raises(ExportError, match=r"gguf: .*speed is not measured"):
        measure_in(Gguf(), {"it": model}, TOKENS)


def test_half_of_the_bytes_for_what_is_not_quantized(tmp_path):
    made = paredown.export(model_of(), TOKENS, tmp_path / "m.gguf", engine="gguf", floats=torch.float16)
    assert written(tmp_path / "m.gguf")[1]["token_embd.weight"] == "F16"
    assert made.agreement.difference < 1e-3
    assert made.bytes == made.float_bytes


def test_keys_of_the_file(tmp_path):
    paredown.export(quantized(model_of(), weights=FOUR), TOKENS, tmp_path / "m.gguf", engine="gguf", repetitions=0)
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    keys = {name: field.contents() for name, field in fields.items()}
    assert keys["general.architecture"] == "llama"
    assert keys["llama.attention.head_count_kv"] == 2
    assert keys["llama.rope.freq_base"] == 10_000
    assert keys["llama.vocab_size"] == 64


def test_scales_that_were_not_simulated_are_a_remark(tmp_path):
    model = quantized(model_of(), engine=None, weights=FOUR)
    made = paredown.export(model, TOKENS, tmp_path / "m.gguf", engine="gguf", data=DATA, repetitions=0)
    assert "scales of 14 tensors were rounded to float16" in made.remarks[0]
    assert made.agreement.engine_decibels > made.agreement.simulated_decibels - 0.1


def test_a_scale_that_is_off_is_found(tmp_path, monkeypatch):
    """Twice the scale of one layer's first blocks."""
    from paredown.integrations.export import gguf_tensors

    def wrong(weight):
        stored = blocks_of(weight)
        stored.data[:, 1] += 4  # the exponent of a float16
        return stored

    blocks_of = gguf_tensors.blocks_of
    monkeypatch.setattr(gguf_tensors, "blocks_of", wrong)
    with pytest.raises(
        ExportError, match=r"outputs differ[\s\S]*first layer that parts is model.layers.0.self_attn.q_proj"
    ):
        paredown.export(
            quantized(model_of(), weights=EIGHT), TOKENS, tmp_path / "m.gguf", engine="gguf", data=DATA, repetitions=0
        )


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (mlp, "Qwen3ForCausalLM, not of a "),
        (lambda: model_of("Gemma2", head_dim=16), "not of a Gemma2ForCausalLM: nothing was written; a folder"),
        (lambda: model_of(attention_bias=True), "attention_bias: true"),
        (lambda: model_of(hidden_act="gelu"), "hidden_act 'gelu'"),
        (lambda: model_of("Mistral", sliding_window=8), "window of 8 tokens"),
        (lambda: model_of("Qwen3", head_dim=16), "head_dim 16"),
        (
            lambda: model_of(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
            "a rotation other than the plain one",
        ),
        (
            lambda: quantized(model_of(), weights={**FOUR, "symmetric": False}),
            r"model.layers.0.self_attn.q_proj \(Linear\) .* zero point .* weights: \{bits: 4, group_size: 32\}",
        ),
        (lambda: quantized(model_of(), weights={"bits": 4, "group_size": 16}), "group_size is 16"),
        (
            lambda: quantized(model_of(), "static_quantization", engine=None, weights={"bits": 8}),
            "its inputs are quantized, which the file cannot say",
        ),
    ],
)
def test_what_the_file_cannot_say_is_refused_before_it_is_written(tmp_path, make, why):
    with pytest.raises(ExportError, match=why):
        paredown.export(make(), TOKENS, tmp_path / "m.gguf", engine="gguf", repetitions=0)
    assert not list(tmp_path.iterdir())


def test_a_model_that_was_cut_otherwise_than_its_configuration_says(tmp_path):
    model = model_of()
    model.model.layers[0].mlp.up_proj = torch.nn.Linear(64, 32, bias=False)
    with pytest.raises(ExportError, match="differ from it"):
        paredown.export(model, TOKENS, tmp_path / "m.gguf", engine="gguf", repetitions=0)


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"no such file")
    with pytest.raises(ExportError, match="transformers cannot read it"):
        Gguf().open(tmp_path / "m.gguf")
