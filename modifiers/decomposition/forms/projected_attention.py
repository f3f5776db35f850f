"""Multi-head attention whose projections are ordinary modules, so that they can be replaced."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ProjectedAttention", "projected_attention"]


class ProjectedAttention(nn.Module):
    """What an ``nn.MultiheadAttention`` computes (Vaswani et al., 2017, arXiv:1706.03762), by modules for projections.

    The forward takes and gives what that of ``nn.MultiheadAttention`` does, where it does not take its fused path:
    nested tensors are refused, and rows whose keys are all masked are NaN where weights are asked for.

    An nn.TransformerEncoderLayer calls it, since there is no ``in_proj_weight`` to read. An nn.TransformerEncoder would
    read ``in_proj_weight`` nevertheless where keys are padded: give it ``use_nested_tensor = False``.

    Args:
        projections: ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj``, from embed_dim, kdim, vdim and embed_dim
            features to embed_dim ones.
        num_heads: by which embed_dim can be divided.
        dropout: of the attention weights in training.
        batch_first: whether batched inputs are (batch, sequence, features), else (sequence, batch, features).
        bias_k, bias_v: a key and a value that are added to each sequence, (1, 1, embed_dim), or neither.
        add_zero_attn: whether a key and a value of zeros are added.
    """

    #: what code that knows nn.MultiheadAttention asks for before it reads packed weights
    in_proj_weight: None = None
    in_proj_bias: None = None
    _qkv_same_embed_dim = False

    def __init__(
        self,
        projections: Mapping[str, nn.Linear],
        num_heads: int,
        dropout: float = 0.0,
        batch_first: bool = False,
        bias_k: nn.Parameter | None = None,
        bias_v: nn.Parameter | None = None,
        add_zero_attn: bool = False,
    ) -> None:
        super().__init__()
        self.embed_dim = projections["q_proj"].out_features
        self.kdim, self.vdim = projections["k_proj"].in_features, projections["v_proj"].in_features
        self.num_heads, self.head_dim = num_heads, self.embed_dim // num_heads
        self.dropout, self.batch_first, self.add_zero_attn = dropout, batch_first, add_zero_attn
        self.q_proj: nn.Module = projections["q_proj"]
        self.k_proj: nn.Module = projections["k_proj"]
        self.v_proj: nn.Module = projections["v_proj"]
        self.out_proj: nn.Module = projections["out_proj"]
        self.bias_k, self.bias_v = bias_k, bias_v

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from each query to the keys.

        Args:
            query, key, value: (L, N, embed_dim), (S, N, kdim) and (S, N, vdim), with N first if ``batch_first``, or
                without N.
            key_padding_mask: (N, S), or (S,) without N; True or minus infinity for keys that are left out.
            need_weights: whether the attention weights are returned.
            attn_mask: (L, S) or (N x heads, L, S); True for what is left out, or what is added to the scores.
            average_attn_weights: whether the weights are averaged over the heads.
            is_causal: a hint that ``attn_mask`` is the causal mask.

        Returns:
            The result in the query's shape, and the weights, (N, L, S) or (N, heads, L, S) or without N, or None.
        """
        _refuse(query, key, value, attn_mask, is_causal)
        lone = None if query.dim() == 3 else 0 if self.batch_first else 1
        if lone is not None:
            query, key, value = query.unsqueeze(lone), key.unsqueeze(lone), value.unsqueeze(lone)
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        q, k, v = self._heads(self.q_proj(query)), self._heads(self.k_proj(key)), self._heads(self.v_proj(value))
        by_hint = is_causal and key_padding_mask is None and not need_weights
        mask = None if by_hint else _mask(attn_mask, key_padding_mask, q, k)
        mixed, weights = self._attend(q, k, v, mask, need_weights, by_hint)
        mixed = self.out_proj(mixed.permute(self._order).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if lone is None:
            return mixed, weights
        return mixed.squeeze(lone), None if weights is None else weights[0]

    def extra_repr(self) -> str:
        """The sizes."""
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"

    @property
    def _order(self) -> tuple[int, int, int, int]:
        """How (N, heads, L, head_dim) is permuted to have the heads next to their features."""
        return (0, 2, 1, 3) if self.batch_first else (2, 0, 1, 3)

    def _heads(self, features: Tensor) -> Tensor:
        """(N, heads, L, head_dim)."""
        by_head = features.reshape(*features.shape[:2], self.num_heads, self.head_dim)
        return by_head.permute((0, 2, 1, 3) if self.batch_first else (1, 2, 0, 3))

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool, is_causal: bool
    ) -> tuple[Tensor, Tensor | None]:
        """What each head gives, (N, heads, L, head_dim), and its weights, (N, heads, L, S)."""
        dropout = self.dropout if self.training else 0.0
        k, v = self._with_added(k, self.bias_k), self._with_added(v, self.bias_v)
        if mask is not None and mask.shape[3] < k.shape[2]:
            mask = F.pad(mask, (0, k.shape[2] - mask.shape[3]))
        if need_weights:
            weights = _weights(q, k, mask, dropout)
            return weights @ v, weights
        return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=is_causal), None

    def _with_added(self, keys: Tensor, bias: Tensor | None) -> Tensor:
        """Keys or values, (N, heads, S, head_dim), and those that are added to every sequence."""
        if bias is not None:
            by_head = bias.view(1, self.num_heads, 1, self.head_dim)
            keys = torch.cat([keys, by_head.expand(keys.shape[0], -1, -1, -1)], 2)
        return F.pad(keys, (0, 0, 0, 1)) if self.add_zero_attn else keys


def projected_attention(attention: nn.MultiheadAttention) -> ProjectedAttention:
    """The same attention with modules for projections.

    Parameters that are a projection's whole weight or bias are taken as they are; what is packed is copied out. Device,
    type, mode and ``requires_grad`` stay.
    """
    own: Any = attention
    new = ProjectedAttention(
        _projections(own), own.num_heads, own.dropout, own.batch_first, own.bias_k, own.bias_v, own.add_zero_attn
    )
    return new.train(own.training)


def _projections(attention: Any) -> dict[str, nn.Linear]:
    names = ("q_proj", "k_proj", "v_proj")
    if attention.in_proj_weight is None:
        weights = [getattr(attention, f"{name}_weight") for name in names]
    else:
        weights = _parts(attention.in_proj_weight)
    biases = [None] * 3 if attention.in_proj_bias is None else _parts(attention.in_proj_bias)
    linears = {name: _linear(weight, bias) for name, weight, bias in zip(names, weights, biases, strict=True)}
    return {**linears, "out_proj": _linear(attention.out_proj.weight, attention.out_proj.bias)}


def _parts(packed: Tensor) -> list[nn.Parameter]:
    parts = packed.detach().chunk(3)
    return [nn.Parameter(part.clone(), requires_grad=packed.requires_grad) for part in parts]


def _linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = weight
    layer.register_parameter("bias", bias)
    return layer


def _refuse(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, is_causal: bool) -> None:
    if any(tensor.is_nested for tensor in (query, key, value)):
        raise RuntimeError("no nested tensors: set use_nested_tensor = False on the nn.TransformerEncoder around")
    if query.dim() not in (2, 3) or not query.dim() == key.dim() == value.dim():
        raise RuntimeError(f"inputs of {query.dim()}, {key.dim()} and {value.dim()} dimensions; all have 2, or all 3")
    if is_causal and attn_mask is None:
        raise RuntimeError("is_causal is a hint about attn_mask: give attn_mask as well")


def _mask(attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """What is added to the scores, (N or 1, heads or 1, L or 1, S), or None.

    Args:
        q, k: (N, heads, L, head_dim) and (N, heads, S, head_dim).
    """
    batch, heads, queries, _ = q.shape
    keys, mask = k.shape[2], None
    if attn_mask is not None:
        _check_shape("attn_mask", attn_mask, (queries, keys), (batch * heads, queries, keys))
        by_head = attn_mask[None, None] if attn_mask.dim() == 2 else attn_mask.reshape(batch, heads, queries, keys)
        mask = _added(by_head, q.dtype)
    if key_padding_mask is not None:
        _check_shape("key_padding_mask", key_padding_mask, (batch, keys))
        padding = _added(key_padding_mask[:, None, None], q.dtype)
        mask = padding if mask is None else mask + padding
    return mask


def _check_shape(name: str, mask: Tensor, *shapes: tuple[int, ...]) -> None:
    if tuple(mask.shape) not in shapes:
        raise RuntimeError(f"{name} has the shape {tuple(mask.shape)}, not {' or '.join(map(str, shapes))}")


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as what is added to the scores: minus infinity where it is True."""
    if mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)


def _weights(q: Tensor, k: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attention weights, (N, heads, L, S)."""
    scores = q / math.sqrt(q.shape[-1]) @ k.mT
    return F.dropout(torch.softmax(scores if mask is None else scores + mask, -1), dropout)
