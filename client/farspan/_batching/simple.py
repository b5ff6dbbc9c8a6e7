"""Rules for elementwise ops, reductions, and ops that leave leading dims alone."""

from __future__ import annotations

from typing import Any

from ..core.call import fn
from ..core.dtype import DType
from ..core.op import OPS
from ..core.spec import wrap_dim, wrap_dims
from .apply import Batch, rule, run
from .tensor import value


# ----------------------------------------------------------------------------------- pointwise --
@rule("<pointwise>", "pow.Scalar", "conj_physical", "angle", "log_sigmoid", "_cast", "_one_hot")
def pointwise(b: Batch) -> Any:
    """Batch dims broadcast against each other; the sample's dims keep their places."""
    ndim = max(t._spec.ndim for t in b.tensors)
    mixed = len(b.tensors) > 1 and len({t._spec.dtype for t in b.tensors}) > 1
    tensors = [b.front(t, ndim) if t._levels else t for t in b.tensors]
    if mixed:
        tensors = _promoted(b, tensors)
    return run(b.op, *b.op.recipe(b.static).args(tensors, b.scalars))


def _promoted(b: Batch, tensors: list[Any]) -> list[Any]:
    """Cast samples without dims, which promote less than what they are physically."""
    if b.op.compute is None or all(t._spec.ndim or not t._levels for t in b.tensors):
        return tensors
    specs = [t._spec for t in b.tensors]
    wanted: DType | None = b.op.compute(*b.op.recipe(b.static).args(specs, b.scalars))
    if wanted is None:
        return tensors
    slots = b.op.recipe(b.static).slots
    operands = [i for at, i in slots.items() if b.op.casts(b.op.args[at].name)]
    return [
        fn._cast(t, wanted) if i in operands and not old._spec.ndim and old._levels else t
        for i, (t, old) in enumerate(zip(tensors, b.tensors, strict=True))
    ]


@rule("clone", "copy", "fill", "zero", "masked_fill", "native_dropout_backward")
def like_first(b: Batch) -> Any:
    """The result has the shape of the first tensor, and the others broadcast to it."""
    ndim = max(t._spec.ndim for t in b.tensors)
    if b.op.name == "masked_fill.Tensor" and b.tensors[2]._levels:
        x, mask, number = [b.front(t, ndim) for t in b.tensors]
        return fn.where(mask, fn._cast(number, x._spec.dtype), x)
    first = b.full(b.tensors[0], ndim if b.op.base == "masked_fill" else None)
    rest = [b.front(t, ndim) if t._levels else t for t in b.tensors[1:]]
    if b.op.base == "fill" and rest and rest[0]._spec.ndim:
        return _filled(b, first)
    return run(b.op, *b.op.recipe(b.static).args([first, *rest], b.scalars))


def _filled(b: Batch, first: Any) -> Any:
    number = b.front(b.tensors[1], b.tensors[0]._spec.ndim)
    return run(OPS["copy"], first, number, False)


# ---------------------------------------------------------------------------------- reductions --
#: Reductions of everything, and the same over a dim.
_OVER_DIM = {
    "sum": "sum.dim_IntList", "mean": "mean.dim", "prod": "prod.dim_int", "any": "any.dim",
    "all": "all.dim", "max": "amax", "min": "amin", "median": "median.dim",
    "nanmedian": "nanmedian.dim",
}  # fmt: skip


@rule("<reduction>")
def reduction(b: Batch) -> Any:
    """Dims are counted behind the batch dims; "all" becomes all of the sample's."""
    x = value(b.tensors[0])
    ndim = b.tensors[0]._spec.ndim
    at = b.position("dim")
    op = b.op
    if at < 0:  # of everything
        flat = fn.reshape(x, (*b.sizes, -1)) if ndim != 1 and x._spec.numel else _flat(b, x)
        op = OPS[_OVER_DIM[op.name]]
        args: list[Any] = [a.default for a in op.args]
        args[0], args[1] = flat, [-1] if op.args[1].kind.startswith("i[") else -1
        if "dtype" in [a.name for a in op.args]:
            args[-1] = b["dtype"]
        result = run(op, *args)
        return b.shaped(result[0] if isinstance(result, tuple) else result)
    args = list(b.args)
    if not ndim:  # as torch, a number counts as one element along dim 0
        x, ndim = fn.unsqueeze(x, -1), 1
    args[0] = x
    if op.args[at].kind in ("i", "i?"):
        if args[at] is None:
            args[0], args[at] = fn.reshape(x, (*b.sizes, -1)), b.k
        else:
            args[at] = wrap_dim(args[at], ndim) + b.k
    else:
        args[at] = [d + b.k for d in wrap_dims(args[at], ndim)]
    keep = b.position("keepdim")
    if keep >= 0 and not b.tensors[0]._spec.ndim:
        args[keep] = False
    return b.shaped(run(op, *args))


def _flat(b: Batch, x: Any) -> Any:
    n = 1
    for size in b.tensors[0]._spec.shape:
        n *= size
    return fn.reshape(x, (*b.sizes, n))


# ---------------------------------------------------------------------- leading dims are a batch --
@rule(
    "linalg_lu_factor_ex", "_lu_unpack", "linalg_cholesky_ex", "linalg_inv_ex", "linalg_det",
    "_cofactors", "linalg_slogdet", "linalg_qr", "_linalg_svd", "_linalg_eigh", "linalg_eig",
    "linalg_pinv", "linalg_matrix_exp", "tril", "triu", "constant_pad_nd", "view_as_real",
    "view_as_complex", "view.dtype", "alias", "detach",
)  # fmt: skip
def transparent(b: Batch) -> Any:
    """The op takes any number of leading dims."""
    tensors = [b.full(t) for t in b.tensors]
    return b.shaped(run(b.op, *b.op.recipe(b.static).args(tensors, b.scalars)))


@rule("linalg_solve_ex")
def solve(b: Batch) -> Any:
    """A vector for each matrix is told from a matrix by its shape, as torch does."""
    x, y = b.tensors
    vector = y._spec.ndim == 1 or y._spec.shape == x._spec.shape[:-1]
    if vector:
        shape = (*b.sizes, *x._spec.shape[:-1])
        tensors = [b.full(x), fn.expand(b.front(y, x._spec.ndim - 1), shape)]
    else:
        ndim = max(x._spec.ndim, y._spec.ndim)
        tensors = [b.full(x, ndim), b.full(y, ndim)]
    return b.shaped(run(b.op, *tensors, *b.args[2:]))


@rule("linalg_solve_triangular", "_cdist_forward", "_batched_mm", "linalg_lstsq")
def transparent_of_equal_rank(b: Batch) -> Any:
    """The op broadcasts leading dims: samples get as many dims as the largest has."""
    if b.op.base == "linalg_lstsq" and len({t._spec.ndim for t in b.tensors}) > 1:
        return NotImplemented  # a vector or a batch of them: torch tells them by the shapes
    ndim = max(t._spec.ndim for t in b.tensors)
    tensors = [b.full(t, ndim) for t in b.tensors]
    return b.shaped(run(b.op, *b.op.recipe(b.static).args(tensors, b.scalars)))


# ------------------------------------------------------------------- an argument names some dims --
@rule(
    "_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data", "cumsum",
    "_reversed_cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "sort", "topk",
    "kthvalue", "mode", "gather", "scatter", "scatter_add", "scatter_reduce",
)  # fmt: skip
def along(b: Batch) -> Any:
    """`dim` counts behind the batch dims; all tensors have the sample's rank."""
    at = b.position("dim")
    ndim = max(t._spec.ndim for t in b.tensors)
    lone = ndim == 0  # a number counts as one element along dim 0
    tensors = [b.full(t) for t in b.tensors]
    tensors = [fn.unsqueeze(t, -1) if t._spec.ndim == b.k else t for t in tensors]
    args = b.op.recipe(b.static).args(tensors, b.scalars)
    args[at] = wrap_dim(b.args[at], ndim or 1) + b.k
    keep = b.position("keepdim")
    if lone and keep >= 0:
        args[keep] = False
    return b.shaped(run(b.op, *args))


@rule("flip", "_fft_c2c", "_fft_r2c", "_fft_c2r")
def along_several(b: Batch) -> Any:
    """A list of dims counts behind the batch dims."""
    at = max(b.position("dim"), b.position("dims"))
    ndim = b.tensors[0]._spec.ndim
    if not ndim:
        return run(OPS["clone"], value(b.tensors[0]), None)
    args = list(b.args)
    args[0] = value(b.tensors[0])
    args[at] = [wrap_dim(d, ndim) + b.k for d in args[at]]
    return run(b.op, *args)


@rule("roll")
def roll(b: Batch) -> Any:
    x, shifts, dims = b.args
    spec = x._spec
    if not dims:  # of the flattened sample
        flat = fn.reshape(value(x), (*b.sizes, -1))
        return b.shaped(fn.roll(flat, shifts, [b.k]))
    return fn.roll(value(x), shifts, [wrap_dim(d, spec.ndim) + b.k for d in dims])


@rule("linalg_cross")
def cross(b: Batch) -> Any:
    x, y, dim = b.args
    ndim = max(x._spec.ndim, y._spec.ndim)
    return run(b.op, b.full(x, ndim), b.full(y, ndim), wrap_dim(dim, ndim) + b.k)


@rule("value_selecting_reduction_backward")
def selecting_backward(b: Batch) -> Any:
    grad, dim, indices, shape, keepdim = b.args
    n = len(shape)
    if not n:
        return NotImplemented
    return run(b.op, b.full(grad), wrap_dim(dim, n) + b.k, b.full(indices), [*b.sizes, *shape],
               keepdim)  # fmt: skip


@rule("isin.Tensor_Tensor", "isin.Tensor_Scalar", "bucketize.Tensor")
def of_elements(b: Batch) -> Any:
    """Each element of the first by itself, against a second that is the same for all samples."""
    if len(b.tensors) > 1 and b.tensors[1]._levels:
        return NotImplemented
    return run(b.op, value(b.tensors[0]), *b.args[1:])
