"""Channels removed from small models of many families of transformers, against the same weights set to zero."""

import contextlib
import copy

import pytest
import torch
from sample_models import recipe_of

from paredown import Recipe, ScheduledManager
from paredown.framework.model.graph.fusion import tensors_of

transformers = pytest.importorskip("transformers")

TOKENS = {"input_ids": torch.randint(3, 60, (2, 12), generator=torch.Generator().manual_seed(0))}
BOTH = {**TOKENS, "decoder_input_ids": TOKENS["input_ids"]}
WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = {"vocab_size": 64, "max_position_embeddings": 80, **WIDTHS}
GROUPED = {**TEXT, "num_key_value_heads": 2}
IMAGE = {**WIDTHS, "image_size": 32, "patch_size": 8}
STAGES = {"hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1]}
DECODER = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}

FAMILIES = {
    "GPT2LMHeadModel": (
        {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2},
        TOKENS,
    ),
    "BertForSequenceClassification": (TEXT, TOKENS),
    "DistilBertModel": ({"vocab_size": 64, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}, TOKENS),
    "AlbertModel": ({**TEXT, "embedding_size": 16}, TOKENS),
    "DebertaV2Model": (TEXT, TOKENS),
    "T5ForConditionalGeneration": (
        {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
        BOTH,
    ),
    "BartModel": ({"vocab_size": 64, **DECODER}, TOKENS),
    "OPTForCausalLM": (
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "word_embed_proj_dim": 32,
        },
        TOKENS,
    ),
    "GPTNeoXForCausalLM": (TEXT, TOKENS),
    "FalconForCausalLM": (TEXT, TOKENS),
    "Qwen2ForCausalLM": (GROUPED, TOKENS),
    "Qwen3ForCausalLM": ({**GROUPED, "head_dim": 8}, TOKENS),
    "Gemma2ForCausalLM": ({**GROUPED, "head_dim": 8}, TOKENS),
    "LlamaForCausalLM": ({**GROUPED, "tie_word_embeddings": True}, TOKENS),
    "MixtralForCausalLM": ({**GROUPED, "num_local_experts": 2}, TOKENS),
    "ViTForImageClassification": (IMAGE, {"pixel_values": (2, 3, 32, 32)}),
    "CLIPVisionModel": (IMAGE, {"pixel_values": (2, 3, 32, 32)}),
    "SwinForImageClassification": (
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        {"pixel_values": (2, 3, 32, 32)},
    ),
    "ConvNextForImageClassification": ({"num_stages": 4, **STAGES}, {"pixel_values": (2, 3, 32, 32)}),
    "ResNetForImageClassification": ({"embedding_size": 16, **STAGES}, {"pixel_values": (2, 3, 32, 32)}),
    "SegformerForSemanticSegmentation": (
        {
            "hidden_sizes": [8, 16, 16, 32],
            "depths": [1, 1, 1, 1],
            "decoder_hidden_size": 16,
            "num_attention_heads": [1, 2, 2, 4],
        },
        {"pixel_values": (2, 3, 64, 64)},
    ),
    "WhisperModel": (
        {
            "vocab_size": 64,
            **DECODER,
            "num_mel_bins": 8,
            "max_source_positions": 20,
            "max_target_positions": 32,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
        {"input_features": (2, 8, 40), "decoder_input_ids": TOKENS["input_ids"]},
    ),
}
#: whose config can say what is left
SAVED = {
    "FalconForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Gemma2ForCausalLM",
    "LlamaForCausalLM",
    "MixtralForCausalLM",
    "ViTForImageClassification",
}


def made(name):
    torch.manual_seed(0)
    fields, inputs = FAMILIES[name]
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model, {key: torch.randn(value) if isinstance(value, tuple) else value for key, value in inputs.items()}


def with_zeros(model, records):
    """Set to zero what the records of surgery removed."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kept = {}
    for record in records:
        if record["operation"] == "shrink":
            place = record["tensor"], record["dimension"]
            before = kept.get(place, torch.arange(tensors[place[0]].shape[place[1]]))
            kept[place] = before[record["kept"]]
    with torch.no_grad():
        for (name, dimension), indices in kept.items():
            gone = [index for index in range(tensors[name].shape[dimension]) if index not in set(indices.tolist())]
            if not name.endswith("running_var"):
                tensors[name].index_fill_(dimension, torch.tensor(gone), 0)
    return model


def outputs(model, inputs):
    return [each for each in tensors_of(model(**inputs)) if each.is_floating_point()]


#: of which some groups are refused, so that a share of each is not reached
PARTLY = ("T5ForConditionalGeneration",)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_left_gives_what_zeros_would(name, tmp_path):
    model, inputs = made(name)
    dense = copy.deepcopy(model)
    fields = {"type": "channel_pruning", "final_sparsity": 0.5, "round_to": 1, "scope": "local"}
    manager = ScheduledManager(Recipe.load(recipe_of(1, p=fields)))
    with pytest.warns(UserWarning, match="was wanted") if name in PARTLY else contextlib.nullcontext():
        report = manager.apply(model, example_inputs=inputs, strict=name not in PARTLY)
    assert report.compressed.parameters < 0.95 * report.dense.parameters
    zeroed = with_zeros(dense, manager.run.surgery.records)
    for ours, theirs in zip(outputs(model, inputs), outputs(zeroed, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-6 * float(theirs.detach().abs().max()))
    sum(each.square().mean() for each in outputs(model.train(), inputs)).backward()
    torch.optim.AdamW(model.parameters(), 1e-4).step()
    if name in SAVED:
        model.eval().save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path).eval()
        for ours, theirs in zip(outputs(again, inputs), outputs(model, inputs), strict=True):
            torch.testing.assert_close(ours, theirs)
