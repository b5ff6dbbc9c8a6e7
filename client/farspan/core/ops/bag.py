"""Embedding bags: rows of a table looked up and reduced over bags of indices; and row norms.

Bag b holds the indices from offsets[b] to offsets[b + 1]; the gradients are look-ups themselves.
"""

from __future__ import annotations

from typing import Any

from ..call import fn
from ..dtype import int32, int64
from ..errors import DTypeError, ParameterError, ShapeError, UnsupportedError
from ..family import common_device, composite, structured
from ..spec import Spec

SUM, MEAN, MAX = 0, 1, 2


# -------------------------------------------------------------------------------------- metadata --
def _c_name(spec: Spec) -> str:
    names = {"float32": "Float", "float64": "Double", "int64": "Long", "int32": "Int"}
    return f"torch.{names.get(spec.dtype.name, spec.dtype.name.title())}Tensor"


def _bag_meta(
    weight: Spec, indices: Spec, offsets: Spec, scale_grad_by_freq: bool, mode: int, sparse: bool,
    per_sample_weights: Spec | None, include_last_offset: bool, padding_idx: int,
) -> tuple[Spec, ...]:  # fmt: skip
    for name, spec in (("indices", indices), ("offsets", offsets)):
        if spec.dtype not in (int32, int64):
            raise DTypeError(
                f"Expected tensor for argument #1 '{name}' to have one of the following scalar "
                f"types: Long, Int; but got {_c_name(spec)} instead (while checking arguments for "
                "embedding_bag)"
            )
        if spec.ndim != 1:
            raise ShapeError(
                f"{name} has to be a 1D Tensor, but got Tensor of dimension {spec.ndim}"
            )
    if weight.dtype.category != 2:
        raise DTypeError(
            "Expected tensor for argument #1 'weight' to have one of the following scalar types: "
            f"Half, BFloat16, Float, Double; but got {_c_name(weight)} instead (while checking "
            "arguments for embedding_bag)"
        )
    if weight.ndim != 2:
        raise ShapeError(f"weight has to be a 2D Tensor, but got Tensor of dimension {weight.ndim}")
    if per_sample_weights is not None:
        _check_weights(weight, indices, per_sample_weights, mode)
    bags = offsets.shape[0]
    if include_last_offset:
        if bags < 1:
            raise ParameterError("include_last_offset: number of offset should be at least 1")
        bags -= 1
    device = common_device([weight, indices, offsets])
    out = Spec.make((bags, weight.shape[1]), weight.dtype, device)
    # In torch a plain sum in these types does not tell which bag an index belongs to.
    quick = mode == SUM and padding_idx < 0 and weight.dtype.itemsize < 8
    index = indices.with_(shape=(0,) if quick else indices.shape)
    size = offsets.with_(shape=offsets.shape if mode == SUM else (bags,))
    return out, index, size, size.with_(shape=out.shape) if mode == MAX else size


def _check_weights(weight: Spec, indices: Spec, per_sample: Spec, mode: int) -> None:
    if mode != SUM:
        raise ParameterError("embedding_bag: per_sample_weights only supported with mode='sum'")
    if per_sample.dtype is not weight.dtype:
        raise DTypeError(
            "Expected tensor for argument #1 'weight' to have the same type as tensor for argument "
            f"#1 'per_sample_weights'; but type {_c_name(weight)} does not equal "
            f"{_c_name(per_sample)} (while checking arguments for embedding_bag)"
        )
    if per_sample.ndim != 1 or per_sample.numel != indices.numel:
        raise ShapeError("per_sample_weights must be 1D and have as many elements as indices")


# --------------------------------------------------------------------------------------- kernels --
def _bags(xp: Any, offsets: Any, n: int, has_last: bool) -> Any:
    """Return the bag of each of n indices; what follows the last of them has the next number."""
    if offsets.size and int(offsets[0]) != 0:
        raise ParameterError(
            "offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to start from "
            f"position 0. However, got {int(offsets[0])}"
        )
    if offsets.size and int(offsets[-1]) > n:
        raise ParameterError(
            f"offsets[-1] can not be greater than input's length {n} but got offsets[-1] of "
            f"{int(offsets[-1])}"
        )
    return xp.searchsorted(offsets, xp.arange(n), side="right") - 1


def _bag_kernel(
    xp: Any, weight: Any, indices: Any, offsets: Any, scale_grad_by_freq: bool, mode: int,
    sparse: bool, per_sample_weights: Any, include_last_offset: bool, padding_idx: int,
) -> tuple[Any, ...]:  # fmt: skip
    rows = weight.shape[0]
    outside = (indices < 0) | (indices >= rows)
    if bool(outside.any()):
        at = int(outside.argmax())
        raise ParameterError(
            f"Index {at} of input takes value {int(indices[at])} which is not in the valid range "
            f"[0, {rows})"
        )
    bag = _bags(xp, offsets, indices.size, include_last_offset)
    count = offsets.size - bool(include_last_offset)
    shown = xp.minimum(bag, max(count - 1, 0))
    kept = (indices != padding_idx) & (bag < count) & (bag >= 0)
    index, bag = indices[kept], bag[kept]
    values = weight[index]
    if per_sample_weights is not None:
        values = values * per_sample_weights[kept][:, None]
    size = xp.bincount(bag, minlength=count)[:count]
    full = xp.flatnonzero(size)
    starts = (xp.cumsum(size) - size)[full]
    out = xp.zeros((count, weight.shape[1]), weight.dtype)
    place = xp.zeros(out.shape, "int64")
    if full.size and mode != MAX:
        out[full] = xp.add.reduceat(values, starts, axis=0)
        if mode == MEAN:
            out /= xp.maximum(size, 1)[:, None].astype(out.dtype)
    elif full.size:
        out[full] = xp.maximum.reduceat(values, starts, axis=0)
        at = xp.arange(index.size)[:, None]
        first = xp.where(values == out[bag], at, index.size - 1)
        place[full] = index[xp.minimum.reduceat(first, starts, axis=0)]
    quick = mode == SUM and padding_idx < 0 and weight.dtype.itemsize < 8
    sizes = xp.zeros(offsets.shape, "int64") if mode == SUM else size
    return out, shown[:0] if quick else shown, sizes, place if mode == MAX else sizes


# ------------------------------------------------------------------------------------- gradients --
def _weight_grad(
    g: Any, weight_spec: Spec, indices: Any, offsets: Any, scale_grad_by_freq: bool, mode: int,
    per_sample_weights: Any, include_last_offset: bool, padding_idx: int, out_2: Any, out_3: Any,
) -> Any:  # fmt: skip
    g = g[0]
    if mode == MAX:
        some = fn.masked_fill(g, fn.unsqueeze(fn.eq(out_2, 0), -1), 0)
        return fn.scatter_add(fn.new_zeros(g, weight_spec.shape), 0, out_3, some)
    if mode == MEAN:
        g = fn.div(g, fn.unsqueeze(fn.clamp_min(out_2, 1), -1))
    of_rows = _spread(g, offsets, indices, include_last_offset)
    if per_sample_weights is not None:
        of_rows = fn.mul(of_rows, fn.unsqueeze(per_sample_weights, -1))
    if scale_grad_by_freq:
        of_rows = fn.div(of_rows, fn.unsqueeze(fn._bag_frequencies(indices), -1))
    return fn.embedding_dense_backward(of_rows, indices, weight_spec.shape[0], padding_idx, False)


def _spread(g: Any, offsets: Any, indices: Any, include_last_offset: bool) -> Any:
    """Return for each index the gradient of its bag."""
    bag = fn._bag_of(offsets, indices._spec.numel)
    if include_last_offset:  # behind the last bag there is none
        g = fn.constant_pad_nd(g, (0, 0, 0, 1), 0)
    return fn.index_select(g, 0, bag)


def _per_sample_grad(
    g: Any, weight: Any, indices: Any, offsets: Any, include_last_offset: bool, padding_idx: int
) -> Any:
    rows = fn.index_select(weight, 0, indices)
    of_rows = _spread(g[0], offsets, indices, include_last_offset)
    found = fn.sum(fn.mul(of_rows, rows), (-1,))
    return fn.masked_fill(found, fn.eq(indices, padding_idx), 0) if padding_idx >= 0 else found


structured(
    "_embedding_bag(Tensor weight, Tensor indices, Tensor offsets, bool scale_grad_by_freq=False,"
    " int mode=0, bool sparse=False, Tensor? per_sample_weights=None,"
    " bool include_last_offset=False, int padding_idx=-1) -> (Tensor, Tensor, Tensor, Tensor)",
    meta=_bag_meta,
    kernel=_bag_kernel,
    vjp={"weight": _weight_grad, "per_sample_weights": _per_sample_grad},
)
structured(
    "farspan::_bag_of(Tensor offsets, int n) -> Tensor",
    meta=lambda offsets, n: Spec.make((n,), int64, offsets.device),
    kernel=lambda xp, offsets, n: _bags(xp, offsets, n, False),
)


def _frequencies_kernel(xp: Any, indices: Any) -> Any:
    """Return what torch divides the gradient of each index by, to scale it by frequency.

    For the i-th different index, in order, it counts how often the i-th of all sorted indices
    occurs (ATen/EmbeddingBag.cpp): the index's own frequency only where the two are one.
    """
    _, inverse, counts = xp.unique(indices, return_inverse=True, return_counts=True)
    of_sorted = xp.sort(inverse)
    return counts[of_sorted[inverse]]


structured(
    "farspan::_bag_frequencies(Tensor indices) -> Tensor",
    meta=lambda indices: Spec.make(indices.shape, int64, indices.device),
    kernel=_frequencies_kernel,
)


def _embedding_bag(*args: Any, padding_idx: int | None = None) -> Any:
    weight, sparse = args[0], args[5]
    if sparse:
        raise UnsupportedError("embedding_bag(sparse=True): farspan has no sparse gradients")
    if padding_idx is None:
        return fn._embedding_bag(*args, -1)
    rows = weight._spec.shape[0]
    if not -rows <= padding_idx < rows:
        raise ParameterError(
            f"padding_idx must be within the number of embeddings, -{rows} through {rows - 1}, "
            f"but got {padding_idx}"
        )
    return fn._embedding_bag(*args, padding_idx % rows)


@composite(
    "embedding_bag(Tensor weight, Tensor indices, Tensor offsets, bool scale_grad_by_freq=False,"
    " int mode=0, bool sparse=False, Tensor? per_sample_weights=None,"
    " bool include_last_offset=False) -> (Tensor, Tensor, Tensor, Tensor)"
)
def embedding_bag(
    weight: Any, indices: Any, offsets: Any, scale_grad_by_freq: bool = False, mode: int = SUM,
    sparse: bool = False, per_sample_weights: Any = None, include_last_offset: bool = False,
) -> Any:  # fmt: skip
    return _embedding_bag(
        weight, indices, offsets, scale_grad_by_freq, mode, sparse, per_sample_weights,
        include_last_offset,
    )  # fmt: skip


@composite(
    "embedding_bag.padding_idx(Tensor weight, Tensor indices, Tensor offsets,"
    " bool scale_grad_by_freq, int mode, bool sparse, Tensor? per_sample_weights,"
    " bool include_last_offset, int? padding_idx) -> (Tensor, Tensor, Tensor, Tensor)"
)
def embedding_bag_padding_idx(
    weight: Any, indices: Any, offsets: Any, scale_grad_by_freq: bool, mode: int, sparse: bool,
    per_sample_weights: Any, include_last_offset: bool, padding_idx: int | None,
) -> Any:  # fmt: skip
    return _embedding_bag(
        weight, indices, offsets, scale_grad_by_freq, mode, sparse, per_sample_weights,
        include_last_offset, padding_idx=padding_idx,
    )  # fmt: skip


def _renorm_kernel(xp: Any, self: Any, indices: Any, max_norm: float, norm_type: float) -> Any:
    rows = xp.unique(indices)
    if rows.size and not 0 <= int(rows[0]) <= int(rows[-1]) < self.shape[0]:
        raise ParameterError("embedding_renorm_: index out of range in self")
    found = self[rows]
    size = xp.linalg.norm(found, norm_type, axis=1)
    too_long = size > max_norm
    scale = xp.where(too_long, max_norm / (size + 1e-7), 1).astype(self.dtype)
    out = self.copy()
    out[rows] = found * scale[:, None]
    return out


def _renorm_meta(self: Spec, indices: Spec, max_norm: float, norm_type: float) -> Spec:
    if self.ndim != 2:
        raise ShapeError(f"Expected 2-dimensional tensor, but got {self.ndim}-dimensional tensor")
    if indices.dtype not in (int32, int64):
        raise DTypeError(
            "Expected tensor for argument #2 'indices' to have one of the following scalar types: "
            f"Long, Int; but got {_c_name(indices)} instead"
        )
    if self.dtype.category < 2:
        raise DTypeError(
            "norm(): input dtype should be either floating point or complex. Got "
            f"{self.dtype.name} instead."
        )
    return self.packed


structured(
    "embedding_renorm(Tensor self, Tensor indices, float max_norm, float norm_type) -> Tensor",
    meta=_renorm_meta,
    kernel=_renorm_kernel,
)
