"""Scaled dot product attention, over ops that each take a whole matrix."""

from __future__ import annotations

import math
from typing import Any

from ..call import fn
from ..dtype import bool_, float32
from ..errors import DTypeError, ParameterError, ShapeError
from ..family import composite


@composite(
    "scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None,"
    " float dropout_p=0., bool is_causal=False, *, float? scale=None, bool enable_gqa=False)"
    " -> Tensor"
)
def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(query @ key.T * scale + mask) @ value over the last two dims.

    attn_mask: boolean (true takes part) or additive. A row in which nothing takes part gives 0.
    """
    ranks = [x._spec.ndim for x in (query, key, value)]
    if min(ranks) < 2:
        raise ShapeError(
            "Expected query, key, and value to all be at least 2 dimensional, but got query.dim: "
            "{} key.dim: {} and value.dim: {} instead.".format(*ranks)
        )
    given = None if attn_mask is None else attn_mask._spec.dtype
    if given not in (None, bool_, float32, query._spec.dtype):
        raise DTypeError(
            "Expected attn_mask dtype to be bool or float or to match query dtype, but got "
            f"attn_mask.dtype: {given.c_name} and query.dtype: {query._spec.dtype.c_name} instead."
        )
    if is_causal and attn_mask is not None:
        raise ParameterError(
            "_scaled_dot_product_attention: Explicit attn_mask should not be set when "
            "is_causal=True"
        )
    if enable_gqa:
        groups = query._spec.shape[-3] // key._spec.shape[-3]
        key = fn.repeat_interleave(key, groups, -3)
        value = fn.repeat_interleave(value, groups, -3)
    length, width = query._spec.shape[-2:]
    factor = 1 / math.sqrt(width) if scale is None else scale
    scores = fn.matmul(fn.mul(query, factor), fn.transpose(key, -2, -1))
    if is_causal:
        shape = (length, key._spec.shape[-2])
        attn_mask = fn.tril(fn.new_ones(query, shape, dtype=bool_))
    if attn_mask is None:
        weights = fn.softmax(scores, -1)
    elif attn_mask._spec.dtype is bool_:
        hidden = fn.logical_not(attn_mask)
        weights = fn.softmax(fn.masked_fill(scores, hidden, -math.inf), -1)
        if not is_causal:  # a row without any partner is 0/0 in the softmax
            weights = fn.masked_fill(weights, fn.all(hidden, -1, True), 0.0)
    else:
        weights = fn.softmax(fn.add(scores, attn_mask), -1)
    return fn.matmul(fn.dropout(weights, dropout_p, True), value)
