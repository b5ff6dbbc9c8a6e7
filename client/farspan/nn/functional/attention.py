"""Multi-head attention with its projections."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import farspan
from farspan._tensor import Tensor
from farspan.core.call import fn
from farspan.nn.functional.dropout import dropout

_NEGATIVE_INFINITY = float("-inf")


class _Masks(NamedTuple):
    """The two additive masks of multi-head attention while key positions are being added."""

    attn: Tensor | None
    key_padding: Tensor | None

    def grown(self) -> _Masks:
        """Return the masks with one more visible key at the end."""
        return _Masks(*(None if mask is None else fn.pad(mask, (0, 1)) for mask in self))


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Return (output, attention weights or None); sequences are (L, N, E) or (L, E).

    Boolean masks hide where they are true (torch's convention here, opposite to
    ``scaled_dot_product_attention``); float masks are added.
    """
    _check_shapes(query, key, value, key_padding_mask, attn_mask)
    _check_heads(query.shape[-1], embed_dim_to_check, num_heads)
    _check_hint(is_causal, attn_mask)
    batched = query.dim() == 3
    if not batched:
        query, key, value = (x.unsqueeze(1) for x in (query, key, value))
        if key_padding_mask is not None:
            key_padding_mask = key_padding_mask.unsqueeze(0)
    target_len, batch, embed_dim = query.shape
    attn = _additive(attn_mask, "attn_mask", query)
    masks = _Masks(
        _checked_3d(attn, batch, num_heads, target_len, key),
        _additive(key_padding_mask, "key_padding_mask", query),
    )
    separate = [q_proj_weight, k_proj_weight, v_proj_weight] if use_separate_proj_weight else None
    q, k, v = _project(query, key, value, in_proj_weight, separate, in_proj_bias)
    if bias_k is not None and bias_v is not None:
        if static_k is not None or static_v is not None:
            raise AssertionError("bias cannot be added to static key or value.")
        k, v, masks = _with_bias_key(k, v, bias_k, bias_v, masks)
    q = _split_heads(q, batch, num_heads)
    k = _split_heads(k, batch, num_heads) if static_k is None else static_k
    v = _split_heads(v, batch, num_heads) if static_v is None else static_v
    if add_zero_attn:
        k, v, masks = _with_zero_key(k, v, masks)
    mask = _merged(masks, batch, num_heads, k.shape[1])
    mixed, attention = _attend(q, k, v, mask, dropout_p if training else 0.0)

    mixed = mixed.transpose(0, 1).reshape(target_len * batch, embed_dim)
    out = fn.linear(mixed, out_proj_weight, out_proj_bias)
    out = out.reshape(target_len, batch, out.shape[-1])
    if not batched:
        out = out.squeeze(1)
    if not need_weights:
        return out, None
    attention = attention.reshape(batch, num_heads, target_len, k.shape[1])
    if average_attn_weights:
        attention = attention.mean(dim=1)
    return out, (attention if batched else attention.squeeze(0))


def _check_hint(is_causal: bool, attn_mask: Tensor | None) -> None:
    if is_causal and attn_mask is None:
        raise RuntimeError(
            "Need attn_mask if specifying the is_causal hint. You may use the Transformer module "
            "method `generate_square_subsequent_mask` to create this mask."
        )


def _with_bias_key(
    k: Tensor, v: Tensor, bias_k: Tensor, bias_v: Tensor, masks: _Masks
) -> tuple[Tensor, Tensor, _Masks]:
    """Return keys and values (L, N, E) with the learned pair at their end."""
    batch = k.shape[1]
    k = farspan.cat([k, bias_k.repeat(1, batch, 1)])
    v = farspan.cat([v, bias_v.repeat(1, batch, 1)])
    return k, v, masks.grown()


def _with_zero_key(k: Tensor, v: Tensor, masks: _Masks) -> tuple[Tensor, Tensor, _Masks]:
    """Return the heads' keys and values (N * heads, L, head_dim) with zeros at their end."""
    zeros = farspan.zeros((k.shape[0], 1, k.shape[2]), dtype=k.dtype, device=k.device)
    return farspan.cat([k, zeros], dim=1), farspan.cat([v, zeros], dim=1), masks.grown()


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float
) -> tuple[Tensor, Tensor]:
    """Return the mixed values and the weights of heads (N * heads, L, head_dim)."""
    scores = (q * math.sqrt(1.0 / q.shape[-1])) @ k.transpose(1, 2)
    attention = (scores if mask is None else scores + mask).softmax(-1)
    attention = dropout(attention, dropout_p)
    return attention @ v, attention


def _check_shapes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None,
    attn_mask: Tensor | None,
) -> None:
    if query.dim() not in (2, 3):
        raise AssertionError(
            "query should be unbatched 2D or batched 3D tensor but received "
            f"{query.dim()}-D query tensor"
        )
    kind = "batched (3-D)" if query.dim() == 3 else "unbatched (2-D)"
    if key.dim() != query.dim() or value.dim() != query.dim():
        raise AssertionError(
            f"For {kind} `query`, expected `key` and `value` to be {query.dim()}-D but found "
            f"{key.dim()}-D and {value.dim()}-D tensors respectively"
        )
    if key_padding_mask is not None and key_padding_mask.dim() != query.dim() - 1:
        raise AssertionError(
            f"For {kind} `query`, expected `key_padding_mask` to be `None` or {query.dim() - 1}-D "
            f"but found {key_padding_mask.dim()}-D tensor instead"
        )
    if attn_mask is not None and attn_mask.dim() not in (2, 3):
        raise AssertionError(
            f"For {kind} `query`, expected `attn_mask` to be `None`, 2-D or 3-D but found "
            f"{attn_mask.dim()}-D tensor instead"
        )
    if tuple(key.shape[:-1]) != tuple(value.shape[:-1]):
        raise AssertionError(
            f"key's sequence and batch dims {key.shape[:-1]} do not match value's "
            f"{value.shape[:-1]}"
        )


def _check_heads(embed_dim: int, expected: int, num_heads: int) -> None:
    if embed_dim != expected:
        raise AssertionError(
            f"was expecting embedding dimension of {expected}, but got {embed_dim}"
        )
    if embed_dim % num_heads:
        raise AssertionError(f"embed_dim {embed_dim} not divisible by num_heads {num_heads}")


def _additive(mask: Tensor | None, name: str, query: Tensor) -> Tensor | None:
    """Return a mask to add to the scores; true in a boolean one becomes minus infinity."""
    if mask is None or mask.is_floating_point():
        return mask
    if mask.dtype != farspan.bool:
        raise AssertionError(f"only bool and floating types of {name} are supported")
    zeros = farspan.zeros(mask.shape, dtype=query.dtype, device=mask.device)
    return zeros.masked_fill(mask, _NEGATIVE_INFINITY)


def _checked_3d(
    mask: Tensor | None, batch: int, num_heads: int, target_len: int, key: Tensor
) -> Tensor | None:
    if mask is None:
        return None
    lead = () if mask.dim() == 2 else (batch * num_heads,)
    expected = (*lead, target_len, key.shape[0])
    if tuple(mask.shape) != expected:
        raise RuntimeError(
            f"The shape of the {mask.dim()}D attn_mask is {mask.shape}, but should be {expected}."
        )
    return mask.unsqueeze(0) if mask.dim() == 2 else mask


def _project(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packed: Tensor | None,
    separate: list[Tensor | None] | None,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v; self-attention with packed weights is one multiplication."""
    if separate is None:
        if packed is None:
            raise AssertionError("use_separate_proj_weight is False but in_proj_weight is None")
        if query is key and key is value:
            q, k, v = fn.linear(query, packed, bias).chunk(3, -1)
            return q, k, v
        separate = list(packed.chunk(3))
    for name, weight in zip("qkv", separate, strict=True):
        if weight is None:
            raise AssertionError(f"use_separate_proj_weight is True but {name}_proj_weight is None")
    biases = [None, None, None] if bias is None else list(bias.chunk(3))
    q, k, v = map(fn.linear, (query, key, value), separate, biases)
    return q, k, v


def _split_heads(x: Tensor, batch: int, num_heads: int) -> Tensor:
    """Return (L, N, E) as (N * heads, L, E / heads)."""
    return x.reshape(x.shape[0], batch * num_heads, x.shape[-1] // num_heads).transpose(0, 1)


def _merged(masks: _Masks, batch: int, num_heads: int, source_len: int) -> Tensor | None:
    attn, padding = masks
    if padding is None:
        return attn
    if tuple(padding.shape) != (batch, source_len):
        raise AssertionError(
            f"Expected key_padded_mask.shape to be {(batch, source_len)}, "
            f"but got {tuple(padding.shape)}"
        )
    rows = padding.reshape(batch, 1, 1, source_len).expand(-1, num_heads, -1, -1)
    rows = rows.reshape(batch * num_heads, 1, source_len)
    if attn is None:
        return rows
    if attn.dtype != padding.dtype:
        warnings.warn(
            "Support for mismatched key_padding_mask and attn_mask is deprecated. "
            "Use same type for both instead.",
            stacklevel=4,
        )
    return attn + rows
