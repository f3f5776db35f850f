"""A MultiheadAttention written out, so that what goes into each of its projections can be quantized."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from paredown.framework.model.operators import ReplacedFunction
from paredown.modifiers.quantization.layers.quantizers import ActivationQuantizer, Quantizer

__all__ = ["AttentionOutputs", "Projections", "attention_in"]

ATTENTION = "multi_head_attention_forward"


class Projections:
    """The four products of an attention. Those of query, key and value, of shape (..., features), are made of the
    weights that ``multi_head_attention_forward`` is given."""

    def inputs(self, query: Tensor, key: Tensor, value: Tensor, weights: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The projected query, key and value."""
        embedding = query.shape[-1]
        bias = weights["in_proj_bias"]
        biases = (None, None, None) if bias is None else bias.split(embedding)
        if weights["use_separate_proj_weight"]:
            own = [weights[f"{name}_proj_weight"] for name in "qkv"]
        else:
            own = weights["in_proj_weight"].split(embedding)
        q, k, v = (nn.functional.linear(x, *each) for x, *each in zip((query, key, value), own, biases, strict=True))
        return q, k, v

    def output(self, x: Tensor, weights: Any) -> Tensor:
        """The attention's result, projected."""
        return nn.functional.linear(x, weights["out_proj_weight"], weights["out_proj_bias"])


class AttentionOutputs(Quantizer):
    """Around a MultiheadAttention whose inputs are quantized as they come: quantizes what goes into the output's
    projection, which the attention itself computes, likewise."""

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        self.quantizer = quantizer

    def around(self, call: Callable[..., Any], module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        with attention_in(_Rounded(self.quantizer, module)):
            return call(module, *args, **kwargs)


class _Rounded(Projections):
    def __init__(self, quantizer: ActivationQuantizer, module: nn.Module) -> None:
        self.quantizer, self.module = quantizer, module

    def output(self, x: Tensor, weights: Any) -> Tensor:
        return super().output(self.quantizer.treated(x, self.module), weights)


def attention_in(projections: Projections) -> ReplacedFunction:
    """Inside of the block attentions make their products with these projections."""

    def replacement(*args: Any, **kwargs: Any) -> Any:
        given = {**DEFAULTS, **dict(zip(NAMES, args, strict=False)), **kwargs}
        return _attention(projections, given) if _is_plain(given) else NotImplemented

    return ReplacedFunction(ATTENTION, replacement)


NAMES = (
    *("query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k", "bias_v"),
    *("add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias"),
)
DEFAULTS: dict[str, Any] = {
    "training": True,
    "key_padding_mask": None,
    "need_weights": True,
    "attn_mask": None,
    "use_separate_proj_weight": False,
    "average_attn_weights": True,
}


def _is_plain(given: dict[str, Any]) -> bool:
    unusual = given["bias_k"] is not None or given["bias_v"] is not None or given["add_zero_attn"]
    return not unusual and all(given.get(key) is None for key in ("static_k", "static_v"))


def _attention(projections: Projections, given: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """What ``multi_head_attention_forward`` returns: (target, batch, features), and weights where they are wanted."""
    query, key, value = given["query"], given["key"], given["value"]
    alone = query.dim() == 2
    if alone:
        query, key, value = (each.unsqueeze(1) for each in (query, key, value))
    target, batch, features = query.shape
    heads = given["num_heads"]
    q, k, v = (_by_head(each, heads) for each in projections.inputs(query, key, value, given))
    mask = _mask(given, batch, heads, q)
    dropout = given["dropout_p"] if given["training"] else 0.0
    scores = None
    if given["need_weights"]:
        products = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        scores = nn.functional.dropout((products if mask is None else products + mask).softmax(-1), dropout)
        result = scores @ v
    else:
        result = nn.functional.scaled_dot_product_attention(q, k, v, mask, dropout)
    result = projections.output(result.permute(2, 0, 1, 3).reshape(target, batch, features), given)
    if scores is not None and given["average_attn_weights"]:
        scores = scores.mean(1)
    if alone:
        return result.squeeze(1), None if scores is None else scores.squeeze(0)
    return result, scores


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(time, batch, features) as (batch, heads, time, features of a head)."""
    time, batch, features = x.shape
    return x.reshape(time, batch, heads, features // heads).permute(1, 2, 0, 3)


def _mask(given: dict[str, Any], batch: int, heads: int, like: Tensor) -> Tensor | None:
    """What is added to the scores, broadcasting against (batch, heads, target, source)."""
    mask, padding = given["attn_mask"], given["key_padding_mask"]
    found = None
    if mask is not None:
        mask = _added(mask, like)
        found = mask.reshape(batch, heads, *mask.shape[-2:]) if mask.dim() == 3 else mask
    if padding is not None:
        padding = _added(padding.reshape(batch, 1, 1, -1), like)
        found = padding if found is None else found + padding
    return found


def _added(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)
