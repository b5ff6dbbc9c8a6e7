"""Workspace: bytes that an op's kernel needs beside its results, from metadata alone.

They are checked against the session's budget before the kernel runs, with the results' own, and
never charged: they are gone when it returns. Factors are measured (benchmarks/workspace.py prints
them anew); what is not named computes in its result, or in blocks of a fixed size.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from farspan.core.ops import resize
from farspan.core.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from farspan.core.op import Op

#: Times the bytes of inputs and results, as a kernel sees them, that its temporaries take at most.
_FACTORS: Final[dict[float, str]] = {
    10: "polygamma special_zeta _histogramdd_from_bin_tensors",
    6: "linalg_matrix_exp histc",
    3: "bernoulli.Tensor linalg_pinv avg_pool2d nanmedian special_entr",
    2.1: "_linalg_svd _linalg_eigh linalg_eig _lobpcg linalg_qr linalg_det linalg_slogdet"
    " linalg_solve_ex linalg_inv_ex linalg_cholesky_ex linalg_solve_triangular geqrf topk kthvalue"
    " median std var std_mean var_mean hash_tensor nansum logsumexp multi_margin_loss mse_loss"
    " linalg_vector_norm adaptive_max_pool2d",
    1.6: "cumsum cumprod logcumsumexp binary_cross_entropy_with_logits _softmax",
    1.3: "nan_to_num sinc leaky_relu _prelu_kernel max_pool2d_with_indices",
    1.1: "_contract binomial _adaptive_avg_pool2d max_pool3d_with_indices logit angle log_sigmoid"
    " _from_front _lu_unpack nextafter adaptive_max_pool3d searchsorted sgn lerp scatter_add"
    " masked_fill xlogy special_xlog1py",
    0.7: "heaviside sign threshold cummax cummin",
    0.5: "_log_softmax sigmoid polar clamp rsub.Scalar frac native_group_norm hardsigmoid hardswish"
    " rsqrt softshrink round linalg_lu_factor_ex",
    0.35: "normal.Tensor_float where binary_cross_entropy_backward mse_loss_backward"
    " _adaptive_avg_pool3d tril triu count_nonzero im2col",
}
_FACTOR: Final = {name: factor for factor, names in _FACTORS.items() for name in names.split()}


def temporaries(op: Op, args: Sequence[Any], outs: Sequence[Spec], casts: Any, fast: bool) -> int:
    """Return the bytes of an op's temporaries; its results' own are not among them.

    args: in schema order, Specs for tensors. casts: (input, numpy dtype) pairs, as plans have them.
    fast: another kernel than the table's runs; these copy what does not lie in order.
    """
    specs = [x for a in args for x in (a if isinstance(a, list | tuple) else (a,))
             if isinstance(x, Spec)]  # fmt: skip
    sizes = [x.nbytes for x in specs]
    if _multiplies_in_place(op, args):
        sizes = [min(n, x.span() * x.dtype.itemsize) for n, x in zip(sizes, specs, strict=True)]
    copied = 0
    for i, dtype in casts:
        if i < len(specs):
            sizes[i] = specs[i].numel * dtype.itemsize
            copied += sizes[i]
    made = 0
    for x in outs:
        made += x.numel * 4 if x.dtype.is_reduced else x.nbytes
        copied += x.numel * 4 if x.dtype.is_reduced else 0  # rounded into the result's own
    if fast and not _multiplies_in_place(op, args):
        return copied + sum(n for n, x in zip(sizes, specs, strict=True) if not x.dense)
    shaped = _BY_SHAPE.get(op.base)
    if shaped is not None:
        return copied + int(shaped(args, outs))
    return copied + int(declared(op.name) * (sum(sizes) + made))


#: Beside pointwise ops those that read an expanded view, or overlapping windows, where it lies.
_IN_PLACE: Final = frozenset(
    "sum sum.dim_IntList mean mean.dim prod prod.dim_int any any.dim any.dims all all.dim all.dims"
    " amax amin aminmax max min index.Tensor mv addmv gather masked_select count_nonzero"
    " nll_loss_forward index_select embedding".split()
)
#: Products of matrices, with the places of their operands.
_PRODUCTS: Final = {"bmm": 0, "_batched_mm": 0, "baddbmm": 1}
#: These need none of its bytes, only time: a sixteenth of them must be there all the same.
_SHARE: Final = 16


def expanded_share(op: Op, args: Sequence[Any]) -> int:
    """Return by what the bytes of an expanded input are divided of which there must be room."""
    lies = op.family == "pointwise" or op.name in _IN_PLACE or _multiplies_in_place(op, args)
    return _SHARE if lies else 1


def _multiplies_in_place(op: Op, args: Sequence[Any]) -> bool:
    """Return whether matrices of an expanded batch are multiplied where they lie.

    By BLAS they are, one by one; oneDNN, which takes float32 with some columns, gets a copy.
    """
    if op.name in ("mm", "_contract"):
        return _multiplies_a_vector(op.name, args)
    if op.name not in _PRODUCTS:
        return False
    a, b = args[_PRODUCTS[op.name] :][:2]
    if a.ndim < 3 or b.ndim != a.ndim or not a.dtype.is_floating_point or a.dtype.is_reduced:
        return False
    if any(0 in x.stride[-2:] and x.numel > x.span() for x in (a, b)):  # within the matrices
        return False
    return a.dtype.itemsize == 8 or a.shape[-2] == 1 or b.shape[-1] == 1


def _multiplies_a_vector(name: str, args: Sequence[Any]) -> bool:
    """Return whether a product of two has one row or column: numpy reads the other where it lies.

    With more of them it copies what BLAS cannot step through.
    """
    if name == "mm":
        a, b = args[:2]
        thin = a.ndim == 2 == b.ndim and 1 in (a.shape[0], b.shape[1])
    else:
        equation, a, b = args[:3]
        labels, _, out = equation.partition("->")
        left, _, right = labels.partition(",")
        inner = set(left) & set(right)
        # A dim each side at most, or they are folded together, which may take a copy.
        thin = len(inner) == 1 and inner.isdisjoint(out) and len(left) + len(right) <= 3
    return thin and a.dtype.is_floating_point and not a.dtype.is_reduced


def declared(name: str) -> float:
    """Return an op's factor."""
    return _FACTOR.get(name) or _FACTOR.get(name.split(".")[0], 0.0)


def _convolution(args: Sequence[Any], outs: Sequence[Spec]) -> int:
    """Return the bytes of the patches, one row for each element of a channel of the result."""
    weight, out = args[1], outs[0]
    rows = out.numel // max(1, out.shape[1]) if out.ndim > 1 else out.numel
    return rows * (weight.numel // max(1, weight.shape[0])) * max(4, out.dtype.itemsize)  # type: ignore[no-any-return]


def _differences(args: Sequence[Any], outs: Sequence[Spec]) -> int:
    """Return the bytes of all differences of rows, and of their powers."""
    x = args[0]
    n = x.shape[-2]
    return 2 * n * n * x.shape[-1] * x.dtype.itemsize  # type: ignore[no-any-return]


def _distances(args: Sequence[Any], outs: Sequence[Spec]) -> int:
    a, out = args[0], outs[0]
    wide = 1 if args[2] == 2 else a.shape[-1]  # the norm of 2 goes by a product
    return 2 * out.nbytes * max(1, wide)  # type: ignore[no-any-return]


def _bags(args: Sequence[Any], outs: Sequence[Spec]) -> int:
    weight, indices = args[:2]
    return 2 * indices.numel * math.prod(weight.shape[1:]) * weight.dtype.itemsize  # type: ignore[no-any-return]


def _closeness(args: Sequence[Any], outs: Sequence[Spec]) -> int:
    """Return the bytes of the distances, what is allowed, and a mask; integers' are float64."""
    dtype = args[0].dtype
    size = 8 if dtype.numpy.kind in "biu" else max(4, dtype.itemsize)
    return outs[0].numel * (3 * size + 2)


def _windows(args: Sequence[Any], outs: Sequence[Spec]) -> int:
    """Return the bytes of a row in memory under a tensor and a window on it, and of addresses."""
    x, (base_stride, size, stride, offset) = args[0], args[-4:]
    added = len(args) == 6 and not isinstance(args[1], Spec)  # a gradient, to a tensor of zeros
    base = args[1] if added else x.shape
    ends = [
        1 + sum((n - 1) * s for n, s in zip(shape, steps, strict=True)) if 0 not in shape else 0
        for shape, steps in ((base, base_stride), (size, stride))
    ]
    row = max(ends[0], offset + ends[1]) - min(0, offset)
    if not added:
        return row * max(4, x.dtype.itemsize)  # type: ignore[no-any-return]
    numel = math.prod(base)  # zeros; a gradient in a row; how many share a place, and addresses
    return (2 * row + 2 * numel + x.numel) * max(4, x.dtype.itemsize) + 24 * (x.numel + numel)  # type: ignore[no-any-return]


def _affine_grids(args: Sequence[Any], outs: Sequence[Spec]) -> int:
    """Return the bytes of an image's places: columns, then all of them side by side with a one."""
    x, size = args[:2]
    places = math.prod(size[2:]) if x.numel else 0
    return places * (2 * len(size) - 2) * max(4, x.dtype.itemsize) + x.nbytes  # type: ignore[no-any-return]


def _log_normals(args: Sequence[Any], outs: Sequence[Spec]) -> int:
    """Return the bytes of draws, in float64 whatever the result is."""
    return 72 * int(args[0].numel)


def _memberships(args: Sequence[Any], outs: Sequence[Spec]) -> int:
    """Return the bytes of both sorted together, or of masks where one has few elements."""
    n, few = (x.numel if isinstance(x, Spec) else 1 for x in args[:2])
    size = max(x.dtype.itemsize for x in args[:2] if isinstance(x, Spec))
    return 16 * (n + few) if few < 10 * n**0.145 else (24 + 2 * size) * (n + few)


def _uniques(args: Sequence[Any], outs: Sequence[Spec]) -> int:
    """Return the bytes of what is sorted, with places, and of results of any length."""
    return (49 + 2 * max(4, args[0].dtype.itemsize)) * args[0].numel  # type: ignore[no-any-return]


def _runs(args: Sequence[Any], outs: Sequence[Spec]) -> int:
    return (36 + max(4, args[0].dtype.itemsize)) * args[0].numel  # type: ignore[no-any-return]


def _unique_slices(args: Sequence[Any], outs: Sequence[Spec]) -> int:
    x, dim = args[:2]
    return 48 * (x.shape[dim] if x.shape else 1) + 3 * x.numel * max(4, x.dtype.itemsize)  # type: ignore[no-any-return]


def _modes(args: Sequence[Any], outs: Sequence[Spec]) -> int:
    return (26 + max(4, args[0].dtype.itemsize)) * args[0].numel  # type: ignore[no-any-return]


def _triangles(args: Sequence[Any], outs: Sequence[Spec]) -> int:
    """Return the bytes of a mask of the whole matrix, of its edges, and of the places found."""
    row, col = args[:2]
    return 3 * row * col + 16 * (row + col) + 2 * sum(x.nbytes for x in outs)  # type: ignore[no-any-return]


def _resizings(mode: str, backward: bool, args: Sequence[Any], outs: Sequence[Spec]) -> int:
    """Return the bytes of a resizing's taps along each dim, and of two images between passes."""
    x, out = args[0], outs[0]
    to = args[1]
    sizes = args[2][2:] if backward else x.shape[2:]
    if not out.numel:
        return 0
    aligned = not mode.startswith("nearest") and bool(args[-len(to) - 1])
    taps = sum(
        m * resize.width(mode, n, m, aligned, scale)
        for n, m, scale in zip(sizes, to, args[-len(to) :], strict=True)
    )
    images = 2 * max(x.numel, out.numel) * (4 if x.dtype.itemsize in (2, 4) else 8)
    return images + (160 * taps + 128 * sum(sizes) if backward else 96 * taps)


_BY_SHAPE: Final = {
    "tril_indices": _triangles,
    "triu_indices": _triangles,
    "log_normal": _log_normals,
    "isin": _memberships,
    "_unique2": _uniques,
    "unique_consecutive": _runs,
    "unique_dim": _unique_slices,
    "mode": _modes,
    "_window": _windows,
    "_window_add": _windows,
    "_window_scatter": _windows,
    "affine_grid_generator": _affine_grids,
    "affine_grid_generator_backward": _affine_grids,
    "isclose": _closeness,
    "convolution": _convolution,
    "_pdist_forward": _differences,
    "_cdist_forward": _distances,
    "_embedding_bag": _bags,
    **{
        name: functools.partial(_resizings, mode, name.endswith("_backward"))
        for name, mode in resize.MODES.items()
    },
}


def depends(op: Op) -> bool:
    """Return whether what an op makes can be told from elements alone: ask `of_elements`."""
    return op.dynamic or op.base in _ALIGNING


#: Sums over alignments, with log_probs at this place: each step has a state for each label.
_ALIGNING: Final = {"_ctc_loss": 0, "_ctc_loss_backward": 1}


def of_elements(op: Op, arrays: Sequence[Any], static: Sequence[Any]) -> int:
    """Return the bytes of results and temporaries whose shapes depend on elements.

    0 where only the op itself can say: those sort, and what they make is no larger than that takes.
    """
    if op.base in _ALIGNING:
        at = _ALIGNING[op.base]
        log_probs, targets, _, lengths = arrays[at : at + 4]
        longest = min(int(lengths.max(initial=0)), targets.shape[-1])  # more is refused
        states = lengths.size * (2 * max(0, longest) + 1)
        each = log_probs.shape[0] * states * log_probs.itemsize
        return int(5 * each + 3 * log_probs.nbytes if at else 2.2 * each) + 64 * states
    if op.base == "nonzero":  # a column each, then all of them together
        return 2 * int(np.count_nonzero(arrays[0])) * max(1, arrays[0].ndim) * 8
    if op.base == "masked_select":
        shape = np.broadcast_shapes(arrays[0].shape, arrays[1].shape)
        times = math.prod(shape) // max(1, arrays[1].size)
        return int(np.count_nonzero(arrays[1])) * times * int(arrays[0].itemsize)
    if op.base == "bincount":
        return max(int(arrays[0].max(initial=0)) + 1, static[-1]) * 8
    if op.base == "repeat_interleave":
        return int(arrays[0].sum(dtype="float64")) * 8  # integers would wrap
    return 0
