"""Views that own their memory (`expand_copy`), a window replaced (`as_strided_scatter`), diagonals.

The copies follow from the views of the table: torch's name is the view's with `_copy`, and the
result is laid out in C order. Import this after view.py and reshape.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..errors import ShapeError
from ..family import composite
from ..op import OPS
from .view import infer_size

if TYPE_CHECKING:
    from collections.abc import Sequence

#: views that torch has a copying form of
_COPIED = (
    "alias", "as_strided", "detach", "diagonal", "expand", "permute", "select", "slice", "split",
    "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view",
    "view_as_complex", "view_as_real",
)  # fmt: skip


def _copy_of(name: str) -> Any:
    view = "alias" if name == "detach" else name  # a copy keeps its history

    def copied(*args: Any, **kwargs: Any) -> Any:
        found = getattr(fn, view)(*args, **kwargs)
        if isinstance(found, tuple):
            return tuple([fn.clone(x, memory_format=0) for x in found])
        return fn.clone(found, memory_format=0)

    return copied


def _unaliased(line: str) -> str:
    """Return a view's schema without the marks of what it aliases."""
    return re.sub(r"\(a[^)]*\)", "", line)


for _op in [o for o in OPS.values() if o.base in _COPIED and o.name != "split.sizes"]:
    _line = _unaliased(_op.line)  # unparsed: an import parses no schema
    composite(_line.replace(_op.base, _op.base + "_copy", 1))(_copy_of(_op.base))


@composite("narrow_copy(Tensor self, int dim, SymInt start, SymInt length) -> Tensor")
def narrow_copy(self: Any, dim: int, start: int, length: int) -> Any:
    return fn.clone(fn.narrow(self, dim, start, length), memory_format=0)


@composite("_reshape_copy(Tensor self, SymInt[] size) -> Tensor")
def reshape_copy(self: Any, size: Sequence[int]) -> Any:
    return fn.view(fn.clone(self, memory_format=0), infer_size(size, self._spec.numel))


# ------------------------------------------------------------------------- a part in its place --
@composite(
    "as_strided_scatter(Tensor self, Tensor src, SymInt[] size, SymInt[] stride, SymInt?"
    " storage_offset=None) -> Tensor"
)
def as_strided_scatter(
    self: Any,
    src: Any,
    size: Sequence[int],
    stride: Sequence[int],
    storage_offset: int | None = None,
) -> Any:
    spec = self._spec
    place = fn.as_strided(fn.detach(self), size, stride, storage_offset)  # which checks the bounds
    if src._spec.shape != place._spec.shape:
        raise ShapeError(
            "expected src to have a size equal to the slice of self. src size = "
            f"{list(src._spec.shape)}, slice size = {list(place._spec.shape)}"
        )
    offset = place._offset - self._offset
    if src._spec.dtype is not spec.dtype:
        src = fn._cast(src, spec.dtype)
    return fn._window_scatter(self, src, spec.stride, tuple(size), tuple(stride), offset)


# ------------------------------------------------------------------------------------ diagonals --
@composite("fill_diagonal_(Tensor(a!) self, Scalar fill_value, bool wrap=False) -> Tensor(a!)")
def fill_diagonal_(self: Any, fill_value: Any, wrap: bool = False) -> Any:
    """Fill the main diagonal; with `wrap` that of a tall matrix starts again below a gap."""
    spec = self._spec
    if spec.ndim < 2:
        raise ShapeError("dimensions must larger than 1")
    if spec.ndim > 2 and len(set(spec.shape)) > 1:
        raise ShapeError("all dimensions of input must be of equal length")
    n, step = min(spec.shape), sum(spec.stride)
    fn.fill_(fn.as_strided(self, (n,), (step,), self._offset), fill_value)
    rows, columns = spec.shape[:2]
    if wrap and spec.ndim == 2 and rows > columns + 1:
        more = (rows * columns + columns) // (columns + 1) - n  # in all, rows taken as one line
        if spec.contiguous and more > 0:
            start = self._offset + (columns + 1) * columns
            fn.fill_(fn.as_strided(self, (more,), (columns + 1,), start), fill_value)
        elif more > 0:
            for at in range(columns + 1, rows, columns + 1):
                left = fn.narrow(self, 0, at, min(columns, rows - at))
                fn.fill_(fn.diagonal(left), fill_value)
    return self
