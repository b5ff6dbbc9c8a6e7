"""The order in which a draw fills a tensor: that of its memory, as in torch's serial kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .dtype import int64
from .spec import Shape, Spec, is_contiguous

if TYPE_CHECKING:
    from collections.abc import Callable


def in_memory_order(
    x: Any, fill: Callable[[tuple[int, ...]], Any], memory_format: int | None = None
) -> Any:
    """Return an array of x's shape whose elements were drawn in the order of their memory.

    That order is the one of `empty_like(x, memory_format)`; dims that x only repeats are placed.
    """
    if in_c_order(x, memory_format):
        return fill(x.shape)
    strides = _stride_like(x, memory_format)
    order = sorted(range(x.ndim), key=lambda d: -strides[d])
    back = [order.index(d) for d in range(x.ndim)]
    return fill(tuple([x.shape[d] for d in order])).transpose(back)


def in_c_order(x: Any, memory_format: int | None) -> bool:
    """Return whether `empty_like(x, memory_format)` is contiguous."""
    if memory_format in (None, 1) and x.flags.c_contiguous:
        return True
    return is_contiguous(x.shape, _stride_like(x, memory_format))


def _stride_like(x: Any, memory_format: int | None) -> Shape:
    stride = tuple([s // x.itemsize for s in x.strides])
    return Spec.make(x.shape, int64, stride=stride).in_format(memory_format).stride
