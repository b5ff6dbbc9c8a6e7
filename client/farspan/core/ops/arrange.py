"""Composites that put tensors together or take them apart: stacks, tiles, grids, diagonals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import notice
from ..call import fn
from ..errors import DTypeError, ShapeError
from ..family import composite
from ..spec import wrap_dim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..spec import Spec


# ------------------------------------------------------------------------------------- together --
@composite("concat(Tensor[] tensors, int dim=0) -> Tensor")
def concat(tensors: Sequence[Any], dim: int = 0) -> Any:
    return fn.cat(tensors, dim)


@composite("concatenate(Tensor[] tensors, int dim=0) -> Tensor")
def concatenate(tensors: Sequence[Any], dim: int = 0) -> Any:
    return fn.cat(tensors, dim)


def _some(name: str, tensors: Sequence[Any]) -> Sequence[Any]:
    if not tensors:
        raise ShapeError(f"{name} expects a non-empty TensorList")
    return tensors


@composite("hstack(Tensor[] tensors) -> Tensor")
def hstack(tensors: Sequence[Any]) -> Any:
    parts = fn.atleast_1d(_some("hstack", tensors))
    return fn.cat(parts, 0 if parts[0]._spec.ndim == 1 else 1)


@composite("vstack(Tensor[] tensors) -> Tensor")
def vstack(tensors: Sequence[Any]) -> Any:
    return fn.cat(fn.atleast_2d(_some("vstack", tensors)), 0)


@composite("row_stack(Tensor[] tensors) -> Tensor")
def row_stack(tensors: Sequence[Any]) -> Any:
    return fn.vstack(tensors)


@composite("dstack(Tensor[] tensors) -> Tensor")
def dstack(tensors: Sequence[Any]) -> Any:
    return fn.cat(fn.atleast_3d(_some("dstack", tensors)), 2)


@composite("column_stack(Tensor[] tensors) -> Tensor")
def column_stack(tensors: Sequence[Any]) -> Any:
    columns = [
        t if t._spec.ndim > 1 else fn.reshape(t, (t._spec.numel, 1))
        for t in _some("column_stack", tensors)
    ]
    return fn.cat(columns, 1)


@composite("block_diag(Tensor[] tensors) -> Tensor")
def block_diag(tensors: Sequence[Any]) -> Any:
    """Each block is padded to its place; the sum of rows of blocks is a cat."""
    blocks = []
    for i, t in enumerate(tensors):
        if t._spec.ndim > 2:
            raise ShapeError(
                "torch.block_diag: Input tensors must have 2 or fewer dimensions. Input "
                f"{i} has {t._spec.ndim} dimensions"
            )
        blocks.append(fn.atleast_2d(t))
    width = sum(b._spec.shape[1] for b in blocks)
    rows, start = [], 0
    for b in blocks:
        columns = b._spec.shape[1]
        rows.append(fn.constant_pad_nd(b, (start, width - start - columns), 0))
        start += columns
    return fn.cat(rows, 0)


@composite("meshgrid.indexing(Tensor[] tensors, *, str indexing) -> Tensor[]")
def meshgrid(tensors: Sequence[Any], *, indexing: str = "ij") -> Any:
    if indexing not in ("ij", "xy"):
        raise ShapeError(
            'torch.meshgrid: indexing must be one of "xy" or "ij", but received: ' + indexing
        )
    for t in _some("meshgrid", tensors):
        if t._spec.ndim > 1:
            raise ShapeError(
                "torch.meshgrid: Expected 0D or 1D tensor in the tensor list but got: "
                f"{list(t._spec.shape)}"
            )
        if t._spec.dtype is not tensors[0]._spec.dtype:
            raise DTypeError("meshgrid expects all tensors to have the same dtype")
    swaps = indexing == "xy" and len(tensors) > 1
    if swaps:
        tensors = [tensors[1], tensors[0], *tensors[2:]]
    shape = [t._spec.numel for t in tensors]
    grids = []
    for i, t in enumerate(tensors):
        lined = fn.reshape(t, [n if d == i else 1 for d, n in enumerate(shape)])
        grids.append(fn.expand(lined, shape))
    if swaps:
        grids[:2] = grids[1], grids[0]
    return tuple(grids)


@composite("meshgrid(Tensor[] tensors) -> Tensor[]")
def meshgrid_ij(tensors: Sequence[Any]) -> Any:
    notice.warn(
        "torch.meshgrid: in an upcoming release, it will be required to pass the indexing "
        "argument.",
    )
    return meshgrid.body(tensors)  # type: ignore[misc]


@composite("cartesian_prod(Tensor[] tensors) -> Tensor")
def cartesian_prod(tensors: Sequence[Any]) -> Any:
    for t in _some("cartesian_prod", tensors):
        if t._spec.ndim != 1:
            raise ShapeError("Expect a 1D vector, but got shape " + str(list(t._spec.shape)))
    if len(tensors) == 1:
        return tensors[0]
    grids = fn.meshgrid(tensors, indexing="ij")
    return fn.stack([fn.flatten(g) for g in grids], 1)


# --------------------------------------------------------------------------------------- tiles --
@composite("tile(Tensor self, SymInt[] dims) -> Tensor")
def tile(self: Any, dims: Sequence[int]) -> Any:
    missing = self._spec.ndim - len(dims)
    return fn.repeat(self, (1,) * missing + tuple(dims))


@composite(
    "repeat_interleave.self_int(Tensor self, SymInt repeats, int? dim=None, *, SymInt?"
    " output_size=None) -> Tensor"
)
def repeat_interleave(
    self: Any, repeats: int, dim: int | None = None, *, output_size: int | None = None
) -> Any:
    if repeats < 0:
        raise ShapeError("Repeats must be non-negative")
    x = fn.flatten(self) if dim is None else self
    spec = x._spec
    dim = wrap_dim(0 if dim is None else dim, spec.ndim)
    if not spec.shape:
        x, spec = fn.reshape(x, (1,)), spec.with_(shape=(1,))
    n = spec.shape[dim]
    if output_size is not None and output_size != n * repeats:
        raise ShapeError(
            f"repeat_interleave: Invalid output_size, expected {n * repeats} but got {output_size}"
        )
    wide = (*spec.shape[: dim + 1], repeats, *spec.shape[dim + 1 :])
    shape = (*spec.shape[:dim], n * repeats, *spec.shape[dim + 1 :])
    return fn.view(fn.clone(fn.expand(fn.unsqueeze(x, dim + 1), wide), memory_format=0), shape)


@composite(
    "repeat_interleave.self_Tensor(Tensor self, Tensor repeats, int? dim=None, *, SymInt?"
    " output_size=None) -> Tensor"
)
def repeat_interleave_tensor(
    self: Any, repeats: Any, dim: int | None = None, *, output_size: int | None = None
) -> Any:
    """Without `output_size` this waits: the sum of the repeats is a value."""
    x = fn.flatten(self) if dim is None else self
    dim = wrap_dim(0 if dim is None else dim, x._spec.ndim)
    n = x._spec.shape[dim] if x._spec.shape else 1
    counts = repeats._spec
    if counts.ndim > 1:
        raise ShapeError("repeats must be 0-dim or 1-dim tensor")
    if counts.numel == 1:
        repeats = fn.expand(fn.reshape(repeats, (1,)), (n,))
    elif counts.shape != (n,):
        raise ShapeError(
            f"repeats must have the same size as input along dim, but got repeats.size(0) = "
            f"{counts.numel} and input.size({dim}) = {n}"
        )
    places = fn.repeat_interleave(repeats, output_size=output_size)
    return fn.index_select(x, dim, places)


@composite("fliplr(Tensor self) -> Tensor")
def fliplr(self: Any) -> Any:
    if self._spec.ndim < 2:
        raise ShapeError("Input must be >= 2-d.")
    return fn.flip(self, (1,))


@composite("flipud(Tensor self) -> Tensor")
def flipud(self: Any) -> Any:
    if self._spec.ndim < 1:
        raise ShapeError("Input must be >= 1-d.")
    return fn.flip(self, (0,))


@composite("rot90(Tensor self, int k=1, int[] dims=[0, 1]) -> Tensor")
def rot90(self: Any, k: int = 1, dims: Sequence[int] = (0, 1)) -> Any:
    ndim = self._spec.ndim
    if len(dims) != 2:
        raise ShapeError(f"expected total rotation dims == 2, but got dims = {len(dims)}")
    if ndim < 2:
        raise ShapeError(f"expected total dims >= 2, but got total dims = {ndim}")
    a, b = (wrap_dim(d, ndim) for d in dims)
    if a == b:
        raise ShapeError(
            f"expected rotation dims to be different, but got dim0 = {dims[0]} and dim1 = {dims[1]}"
        )
    if k % 4 == 1:
        return fn.transpose(fn.flip(self, (b,)), a, b)
    if k % 4 == 2:
        return fn.flip(self, (a, b))
    if k % 4 == 3:
        return fn.transpose(fn.flip(self, (a,)), a, b)
    return fn.clone(self, memory_format=0)


# ---------------------------------------------------------------------------------- one by one --
def _owning(name: str) -> Any:
    """Return a split whose parts are views one by one, so that each may be written to."""

    def owning(*args: Any, **kwargs: Any) -> Any:
        return tuple([fn.alias(x) for x in getattr(fn, name)(*args, **kwargs)])

    return owning


for _name, _line in (
    ("chunk", "(Tensor self, int chunks, int dim=0)"),
    ("split", ".Tensor(Tensor self, SymInt split_size, int dim=0)"),
    ("split_with_sizes", "(Tensor self, SymInt[] split_sizes, int dim=0)"),
):
    composite(f"unsafe_{_name}{_line} -> Tensor[]")(_owning(_name))


# ------------------------------------------------------------------------------------ diagonals --
@composite("diag(Tensor self, int diagonal=0) -> Tensor")
def diag(self: Any, diagonal: int = 0) -> Any:
    ndim = self._spec.ndim
    if ndim == 1:
        return fn.diag_embed(self, diagonal)
    if ndim == 2:
        return fn.clone(fn.diagonal(self, diagonal))
    raise ShapeError(f"diag(): Supports 1D or 2D tensors. Got {ndim}D")


@composite("diagflat(Tensor self, int offset=0) -> Tensor")
def diagflat(self: Any, offset: int = 0) -> Any:
    return fn.diag_embed(fn.flatten(self), offset)


# --------------------------------------------------------------------------------------- pixels --
def images_of(view: Any, shape: Any, like: Spec) -> Any:
    """Return a copy of the view in this shape, its channels innermost where they are in `like`."""
    made = fn.view(fn.clone(view, memory_format=0), shape)
    return fn.contiguous(made, memory_format=like.suggested_format)


@composite("pixel_shuffle(Tensor self, int upscale_factor) -> Tensor")
def pixel_shuffle(self: Any, upscale_factor: int) -> Any:
    shape, r = self._spec.shape, upscale_factor
    if len(shape) < 3:
        raise ShapeError(
            f"pixel_shuffle expects input to have at least 3 dimensions, but got input with "
            f"{len(shape)} dimension(s)"
        )
    if r <= 0:
        raise ShapeError(f"pixel_shuffle expects a positive upscale_factor, but got {r}")
    *lead, c, h, w = shape
    if c % (r * r):
        raise ShapeError(
            "pixel_shuffle expects its input's 'channel' dimension to be divisible by the square "
            f"of upscale_factor, but input.size(-3)={c} is not divisible by {r * r}"
        )
    n = len(lead)
    wide = fn.reshape(self, (*lead, c // (r * r), r, r, h, w))
    order = (*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return images_of(fn.permute(wide, order), (*lead, c // (r * r), h * r, w * r), self._spec)


@composite("pixel_unshuffle(Tensor self, int downscale_factor) -> Tensor")
def pixel_unshuffle(self: Any, downscale_factor: int) -> Any:
    shape, r = self._spec.shape, downscale_factor
    if len(shape) < 3:
        raise ShapeError(
            f"pixel_unshuffle expects input to have at least 3 dimensions, but got input with "
            f"{len(shape)} dimension(s)"
        )
    if r <= 0:
        raise ShapeError(f"pixel_unshuffle expects a positive downscale_factor, but got {r}")
    *lead, c, h, w = shape
    if h % r or w % r:
        raise ShapeError(
            "pixel_unshuffle expects height and width to be divisible by downscale_factor, but "
            f"input.size(-2)={h}, input.size(-1)={w} and downscale_factor={r}"
        )
    n = len(lead)
    wide = fn.reshape(self, (*lead, c, h // r, r, w // r, r))
    order = (*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return images_of(fn.permute(wide, order), (*lead, c * r * r, h // r, w // r), self._spec)


# ------------------------------------------------------------------------ a part in its place --
@composite("select_scatter(Tensor self, Tensor src, int dim, SymInt index) -> Tensor")
def select_scatter(self: Any, src: Any, dim: int, index: int) -> Any:
    out = fn.clone(self)
    fn.copy_(fn.select(out, dim, index), _exactly(src, fn.select(out, dim, index)))
    return out


@composite(
    "slice_scatter(Tensor self, Tensor src, int dim=0, SymInt? start=None, SymInt? end=None, SymInt"
    " step=1) -> Tensor"
)
def slice_scatter(
    self: Any,
    src: Any,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Any:
    out = fn.clone(self)
    place = fn.slice(out, dim, start, end, step)
    fn.copy_(place, _exactly(src, place))
    return out


@composite(
    "diagonal_scatter(Tensor self, Tensor src, int offset=0, int dim1=0, int dim2=1) -> Tensor"
)
def diagonal_scatter(self: Any, src: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    out = fn.clone(self)
    place = fn.diagonal(out, offset, dim1, dim2)
    fn.copy_(place, _exactly(src, place))
    return out


def _exactly(src: Any, place: Any) -> Any:
    if src._spec.shape != place._spec.shape:
        raise ShapeError(
            "expected src to have a size equal to the slice of self. src size = "
            f"{list(src._spec.shape)}, slice size = {list(place._spec.shape)}"
        )
    return src
