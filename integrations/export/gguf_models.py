"""Models of transformers as llama.cpp describes them: which it computes alike, keys of the file, names and order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from paredown.framework.errors import ExportError
from paredown.framework.model.links import base_class
from paredown.integrations.export.folder_structure import refuse_other_layers

__all__ = ["architecture_of", "keys_of", "permuted", "refuse_other_models"]

#: llama.cpp's names of the architectures, by class
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
INSTEAD = (
    "nothing was written; a folder for transformers (paredown.integrations.compressed_tensors), or "
    "engine='onnxruntime', may take the model"
)
#: of Qwen3, where transformers does not read it from the file
HEAD_DIM = 128


def architecture_of(model: nn.Module) -> str:
    """llama.cpp's name of a model's architecture.

    Raises:
        ExportError: it is none of those that are written.
    """
    kind = base_class(model).__name__
    if kind not in ARCHITECTURES:
        raise ExportError(f"GGUF files are written of {', '.join(ARCHITECTURES)}, not of a {kind}: {INSTEAD}")
    return ARCHITECTURES[kind]


def refuse_other_models(model: nn.Module) -> None:
    """Refuse a model of which the file would say something else.

    Raises:
        ExportError: names what is not written, and what can be used instead.
    """
    architecture = architecture_of(model)
    reasons = [*_reasons(model.config, architecture)]
    if reasons:
        raise ExportError(f"GGUF files are not written of models with {'; '.join(reasons)}: {INSTEAD}")
    refuse_other_layers(model)


def keys_of(model: Any) -> dict[str, int | float]:
    """What the file says of the architecture, by llama.cpp's keys: sizes, epsilon, base of the rotation."""
    config, architecture = model.config, architecture_of(model)
    head = _head_dim(config)
    keys = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": head,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "vocab_size": config.vocab_size,
    }
    return {f"{architecture}.{key}": value for key, value in keys.items()}


def permuted(rows: Tensor, name: str, model: Any) -> Tensor:
    """Rows of a tensor in the order of the file: llama.cpp's ``llama`` rotates neighbours (2i, 2i + 1) of a head, where
    transformers rotates i and i + d/2, so the rows of queries and keys trade places.

    Args:
        rows: (heads x d, ...), codes or bytes.
        name: of the parameter in the model.
    """
    heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
    count = heads.get(name.split(".")[-2])
    if count is None or architecture_of(model) != "llama":
        return rows
    return rows.reshape(count, 2, -1, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _reasons(config: Any, architecture: str) -> Iterator[str]:
    """What a configuration has that the file cannot say, or that transformers does not read from it."""
    rotation = config.rope_parameters
    if rotation.get("rope_type", "default") != "default" or rotation.get("partial_rotary_factor", 1.0) != 1.0:
        yield f"a rotation other than the plain one ({rotation})"
    if config.hidden_act != "silu":
        yield f"hidden_act {config.hidden_act!r} (silu is)"
    for bias in ("attention_bias", "mlp_bias"):
        if getattr(config, bias, False):
            yield f"{bias}: true"
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) and window is not None and window < config.max_position_embeddings:
        yield f"attention within a window of {window} tokens"
    if architecture == "qwen3" and _head_dim(config) != HEAD_DIM:
        yield f"head_dim {_head_dim(config)} (Qwen3's is {HEAD_DIM})"
    if architecture == "qwen2" and _head_dim(config) * config.num_attention_heads != config.hidden_size:
        yield "head_dim other than hidden_size / num_attention_heads"
