"""Rows that an index names, taken or added to by one native loop: gather, scatter_add and the like.

An index that is expanded over all other dims (stride 0) names whole rows; any other one names
elements. Sums are taken in the order of the index, as numpy's `add.at` does, so to the same bits.
Measured by benchmarks/kernels.py, one thread, native / numpy / torch in ms, 16,000 rows of 64 among
2,000: index_add 0.16 / 1.28 / 0.22, scatter_add of an expanded index 0.14 / 2.06 / 0.21.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from farspan.core.errors import ShapeError
from farspan.core.op import table
from farspan.core.ops.index import checked_forward
from farspan.core.ops.pool_windows import ints, steps_of

from ... import Fast, Registry
from . import native
from .nest import NAME

if TYPE_CHECKING:
    from farspan.core.spec import Spec

#: Elements that an index names, below which the table's kernel is done before a loop is compiled.
SMALL: Final = 2_048
_LLVM: Final = {"float32": "float", "float64": "double", "int64": "i64", "int32": "i32"}
_MOVED: Final = {1: "i8", 2: "i16", 4: "i32", 8: "i64"}  # by bytes

Ints = tuple[int, ...]


# --------------------------------------------------------------------------------------- loops --
#: named: (outer, rows, width) in C order; listed: (outer, n, width) with unit steps in a row; the
#: index steps by %ib, %ii and %ij elements. `whole`: it does not step within a row.
_TEXT: Final = """
define void @{name}(ptr noalias %named, ptr noalias %index, ptr noalias %listed,
  i64 %outer, i64 %n, i64 %width, i64 %rows, i64 %ib, i64 %ii, i64 %ij, i64 %lb, i64 %li) #0 {{
entry:
  %e0 = mul i64 %outer, %n
  %e1 = mul i64 %e0, %width
  %any = icmp sgt i64 %e1, 0
  br i1 %any, label %outside, label %done
outside:
  %b = phi i64 [ 0, %entry ], [ %b.next, %outside.next ]
  %base = mul i64 %b, %rows
  %at.b = mul i64 %b, %ib
  %list.b = mul i64 %b, %lb
  br label %entries
entries:
  %i = phi i64 [ 0, %outside ], [ %i.next, %entries.next ]
  %i.in = mul i64 %i, %ii
  %at.i = add i64 %at.b, %i.in
  %list.in = mul i64 %i, %li
  %list.i = add i64 %list.b, %list.in
  {before}
  br label %elements
elements:
  %j = phi i64 [ 0, %entries ], [ %j.next, %elements ]
  {inside}
  %from = add i64 %row, %j
  %l = add i64 %list.i, %j
  %there = getelementptr {type}, ptr %named, i64 %from
  %here = getelementptr {type}, ptr %listed, i64 %l
  {body}
  %j.next = add nuw nsw i64 %j, 1
  %j.more = icmp slt i64 %j.next, %width
  br i1 %j.more, label %elements, label %entries.next
entries.next:
  %i.next = add nuw nsw i64 %i, 1
  %i.more = icmp slt i64 %i.next, %n
  br i1 %i.more, label %entries, label %outside.next
outside.next:
  %b.next = add nuw nsw i64 %b, 1
  %b.more = icmp slt i64 %b.next, %outer
  br i1 %b.more, label %outside, label %done
done:
  ret void
}}
attributes #0 = {{ nounwind "prefer-vector-width"="512" }}
"""
_ROW: Final = """%index.at = getelementptr i64, ptr %index, i64 {at}
  %k = load i64, ptr %index.at
  %row.k = add i64 %base, %k
  %row = mul i64 %row.k, %width"""
_STEP: Final = """%j.in = mul i64 %j, %ij
  %at.j = add i64 %at.i, %j.in
  """
_TAKE: Final = """%x = load {type}, ptr %there
  store {type} %x, ptr %here"""
_PUT: Final = """%y = load {type}, ptr %here
  store {type} %y, ptr %there"""
_ADD: Final = """%x = load {type}, ptr %there
  %y = load {type}, ptr %here
  %sum = {add} {type} %x, %y
  store {type} %sum, ptr %there"""


@functools.cache
def _loop(body: str, whole: bool, single: bool, kind: str) -> tuple[Any, native.Code]:
    """Return the function, and the code that it lives in. single: the width is 1."""
    row = _ROW.format(at="%at.i" if whole else "%at.j")
    body = body.format(type=kind, add="add" if kind[0] == "i" else "fadd")
    text = _TEXT.format(
        name=NAME, type=kind, body=body, before=row if whole else "",
        inside="" if whole else _STEP + row,
    )  # fmt: skip
    if single:
        text = text.replace("i64 %width,", "i64 %,").replace("%width", "1")
        text = text.replace("i64 %,", "i64 %width,")
    code = native.Code(native.to_object(text))
    return native.function(code.address, 3, "i" * 9), code


class Places:
    """An index seen as (outer, n, width): its elements and how far each of the three steps."""

    __slots__ = ("array", "shape", "steps")

    def __init__(self, index: Any, dim: int, shape: Ints, rows: int) -> None:
        """index: of this shape, or a vector for all rows.

        ShapeError: it leaves [0, rows), or is of another size; the loop would read beyond it.
        """
        self.shape = (math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :]))
        if index.ndim < len(shape):
            self.array = np.ascontiguousarray(index, np.int64)
            self.steps = (0, 1, 0)
        elif is_expanded(index.shape, index.strides, dim):
            first = tuple([slice(None) if d == dim else 0 for d in range(index.ndim)])
            self.array = np.ascontiguousarray(index[first], np.int64)
            self.steps = (0, 1, 0)
        else:
            self.array = np.ascontiguousarray(index, np.int64)
            self.steps = (self.shape[1] * self.shape[2], self.shape[2], 1)
        needed = math.prod(self.shape) if self.steps[2] else self.shape[1]
        if self.array.size != needed:
            raise ShapeError(f"index of {self.array.size} elements for {needed}")
        checked_forward(self.array, rows, dim)


def is_expanded(shape: Ints, strides: Ints, dim: int) -> bool:
    """Return whether an index names whole rows: it steps along its dim alone."""
    pairs = enumerate(zip(shape, strides, strict=True))
    return all(not step or n == 1 for d, (n, step) in pairs if d != dim)


def _run(body: str, named: Any, rows: int, places: Places, listed: Any) -> None:
    outer, n, width = places.shape
    kind = _LLVM[named.dtype.name] if body is _ADD else _MOVED[named.dtype.itemsize]
    function, _ = _loop(body, not places.steps[2], width == 1, kind)
    function(
        named.ctypes.data, places.array.ctypes.data, listed.ctypes.data, outer, n, width, rows,
        *places.steps, n * width, width,
    )  # fmt: skip


def add_at(out: Any, dim: int, index: Any, source: Any) -> None:
    """Add each row or element of `source` where the index says, in order.

    out: in C order; source: of the index's shape, or for a vector of out's but for `dim`. Nothing
    of it or of the index lies in `out`. ShapeError: the index leaves out's range.
    """
    places = Places(index, dim, source.shape, out.shape[dim])
    _run(_ADD, out, out.shape[dim], places, np.ascontiguousarray(source))


def put_at(out: Any, dim: int, index: Any, source: Any) -> None:
    """As `add_at`, but each element replaces what was there; of several the last one stays."""
    places = Places(index, dim, source.shape, out.shape[dim])
    _run(_PUT, out, out.shape[dim], places, np.ascontiguousarray(source))


def take_at(x: Any, dim: int, index: Any, out: Any) -> None:
    """Write to `out`, in C order, the elements of x that the index names. ShapeError: as above."""
    places = Places(index, dim, out.shape, x.shape[dim])
    x = np.ascontiguousarray(x)
    if places.steps[2]:
        _run(_TAKE, x, x.shape[dim], places, out)
    else:  # whole rows: numpy copies them as such
        x.take(places.array, dim, out, "clip")


# ------------------------------------------------------------------------------------- kernels --
def fits(shape: Ints, index: Ints, dim: int) -> bool:
    """Return whether an index of this shape reaches all of the other dims."""
    return len(index) == len(shape) and all(
        n == m for d, (n, m) in enumerate(zip(shape, index, strict=True)) if d != dim
    )


def sums(spec: Spec) -> bool:
    """Return whether elements of this tensor can be added up by a loop."""
    return bool(spec.ndim) and spec.dtype.name in _LLVM


def moves(spec: Spec) -> bool:
    """Return whether elements of this tensor can be copied by a loop."""
    return bool(spec.ndim) and spec.dtype.itemsize in _MOVED


def _gather(plain: Any) -> Any:
    def kernel(xp: Any, self: Any, dim: int, index: Any, sparse_grad: bool) -> Any:
        dim %= self.ndim
        if not index.size or not fits(self.shape, index.shape, dim):
            return plain(xp, self, dim, index, sparse_grad)
        out = np.empty(index.shape, self.dtype)
        take_at(self, dim, index, out)
        return out

    return kernel


def _scatter_add(plain: Any) -> Any:
    def kernel(xp: Any, self: Any, dim: int, index: Any, src: Any) -> Any:
        dim %= self.ndim
        if not index.size or index.shape != src.shape or not fits(self.shape, index.shape, dim):
            return plain(xp, self, dim, index, src)
        out = self.copy(order="C")
        add_at(out, dim, index, src)
        return out

    return kernel


def _index_add(plain: Any) -> Any:
    def kernel(xp: Any, self: Any, dim: int, index: Any, source: Any, alpha: Any) -> Any:
        dim %= self.ndim
        if not source.size or index.ndim != 1:
            return plain(xp, self, dim, index, source, alpha)
        out = self.copy(order="C")
        add_at(out, dim, index, source if alpha == 1 else source * self.dtype.type(alpha))
        return out

    return kernel


def _embedding_backward(plain: Any) -> Any:
    def kernel(
        xp: Any, grad_output: Any, indices: Any, num_weights: int, padding_idx: int, scale: bool
    ) -> Any:
        known = not grad_output.size or (indices.min() >= 0 and indices.max() < num_weights)
        if scale or padding_idx >= 0 or not grad_output.size or not known:
            return plain(xp, grad_output, indices, num_weights, padding_idx, scale)
        width = grad_output.shape[-1]
        out = np.zeros((num_weights, width), grad_output.dtype)
        add_at(out, 0, indices.reshape(-1), grad_output.reshape(-1, width))
        return out

    return kernel


def _max_pool_backward(
    xp: Any, grad_output: Any, self: Any, kernel_size: Ints, stride: Ints, padding: Ints,
    dilation: Ints, ceil_mode: bool, indices: Any,
) -> Any:  # fmt: skip
    """Bring each gradient to the place of its maximum; where windows overlap, add."""
    window = ints(kernel_size, 2)
    gaps = zip(steps_of(window, stride, 2), ints(dilation, 2), window, strict=True)
    apart = all(s > d * (k - 1) for s, d, k in gaps)
    planes, plane = math.prod(self.shape[:-2]), math.prod(self.shape[-2:])
    out = np.zeros((planes, plane), grad_output.dtype)
    at = indices.reshape(planes, -1)
    (put_at if apart else add_at)(out, 1, at, grad_output.reshape(planes, -1))
    return out.reshape(self.shape)


def _sums(self: Any, dim: int, index: Any, src: Any, *rest: Any) -> bool:
    return sums(self) and src.numel >= SMALL


def _takes(self: Any, dim: int, index: Any, *rest: Any) -> bool:
    return moves(self) and index.numel >= SMALL


def _first(grad_output: Any, *rest: Any) -> bool:
    return sums(grad_output) and grad_output.numel >= SMALL


def register(registry: Registry) -> None:
    """Enter gathers and sums by index; without llvmlite nothing."""
    if native.absent():
        return
    ops = table()
    rules: Sequence[tuple[str, Any, Any]] = (
        ("gather", _gather, _takes),
        ("scatter_add", _scatter_add, _sums),
        ("index_add", _index_add, _sums),
        ("embedding_dense_backward", _embedding_backward, _first),
        ("max_pool2d_with_indices_backward", lambda plain: _max_pool_backward, _first),
    )
    for name, made, when in rules:
        registry[name] = Fast(made(ops[name].kernel), when)
