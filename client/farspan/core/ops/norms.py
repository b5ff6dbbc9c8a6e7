"""Norms of matrices, condition numbers, distances between points, and odds and ends of linalg.

The norm of a vector is a reduction (`linalg_vector_norm`); these are made of it, of singular values
and of sums.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import float32
from ..errors import DTypeError, ShapeError
from ..family import common_device, common_dtype, composite, structured
from ..spec import Spec, broadcast_shapes, wrap_dim
from .decompose import check_matrix
from .linalg import mH

if TYPE_CHECKING:
    from collections.abc import Sequence


# --------------------------------------------------------------------------------------- norms --
@composite(
    "linalg_matrix_norm(Tensor self, Scalar ord, int[] dim=[-2, -1], bool keepdim=False, *,"
    " ScalarType? dtype=None) -> Tensor"
)
def linalg_matrix_norm(
    self: Any, ord: Any, dim: Sequence[int] = (-2, -1), keepdim: bool = False, *, dtype: Any = None
) -> Any:
    x, a, b = _prepared(self, dim, dtype)
    if abs(ord) == 2:
        S = fn.linalg_svdvals(fn.movedim(x, (a, b), (-2, -1)))
        made = fn.amax(S, [-1]) if ord > 0 else fn.amin(S, [-1])
        return _with_dims(made, a, b, keepdim)
    if abs(ord) not in (1, math.inf):
        raise ShapeError(f"linalg.matrix_norm: Order {ord} not supported.")
    summed, kept = (a, b) if abs(ord) == 1 else (b, a)
    sums = fn.sum(fn.abs(x), [summed], True)
    made = fn.amax(sums, [kept], True) if ord > 0 else fn.amin(sums, [kept], True)
    return made if keepdim else fn.squeeze(fn.squeeze(made, max(a, b)), min(a, b))


@composite(
    'linalg_matrix_norm.str_ord(Tensor self, str ord="fro", int[] dim=[-2, -1], bool'
    " keepdim=False, *, ScalarType? dtype=None) -> Tensor"
)
def matrix_norm_by_name(
    self: Any,
    ord: str = "fro",
    dim: Sequence[int] = (-2, -1),
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Any:
    x, a, b = _prepared(self, dim, dtype)
    if ord == "fro":
        return fn.linalg_vector_norm(x, 2, [a, b], keepdim)
    if ord != "nuc":
        raise ShapeError(f"linalg.matrix_norm: Order {ord} not supported.")
    S = fn.linalg_svdvals(fn.movedim(x, (a, b), (-2, -1)))
    return _with_dims(fn.sum(S, [-1]), a, b, keepdim)


def _prepared(self: Any, dim: Sequence[int], dtype: Any) -> tuple[Any, int, int]:
    spec: Spec = self._spec
    name = "linalg.matrix_norm"
    if spec.ndim < 2:
        raise ShapeError(f"{name}: The input tensor A must have at least 2 dimensions.")
    if len(dim) != 2:
        raise ShapeError(f"{name}: dim must be a 2-tuple. Got {list(dim)}")
    if spec.dtype.category < 2:
        raise DTypeError(
            f"{name}: Expected a floating point or complex tensor as input. Got {spec.dtype.c_name}"
        )
    a, b = wrap_dim(dim[0], spec.ndim), wrap_dim(dim[1], spec.ndim)
    if a == b:
        raise ShapeError(f"{name}: dims must be different. Got ({dim[0]}, {dim[1]})")
    return (self if dtype is None else fn._cast(self, dtype)), a, b


def _with_dims(x: Any, a: int, b: int, keepdim: bool) -> Any:
    if not keepdim:
        return x
    return fn.unsqueeze(fn.unsqueeze(x, min(a, b)), max(a, b))


@composite(
    "linalg_norm(Tensor self, Scalar? ord=None, int[1]? dim=None, bool keepdim=False, *,"
    " ScalarType? dtype=None) -> Tensor"
)
def linalg_norm(
    self: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    dims = [dim] if isinstance(dim, int) else dim
    if ord is None:
        if dims is None:
            flat = fn.linalg_vector_norm(fn.reshape(self, (-1,)), 2, None, False, dtype=dtype)
            return fn.reshape(flat, (1,) * self._spec.ndim) if keepdim else flat
        return fn.linalg_vector_norm(self, 2, dims, keepdim, dtype=dtype)
    rank = self._spec.ndim
    if dims is None and rank not in (1, 2):
        raise ShapeError(
            "linalg.norm: If dim is not specified but ord is, the input must be 1D or 2D. Got "
            f"{rank}D."
        )
    if len(dims) == 1 if dims is not None else rank == 1:
        return fn.linalg_vector_norm(self, ord, dims, keepdim, dtype=dtype)
    return fn.linalg_matrix_norm(self, ord, dims or (-2, -1), keepdim, dtype=dtype)


@composite(
    "linalg_norm.ord_str(Tensor self, str ord, int[1]? dim=None, bool keepdim=False, *,"
    " ScalarType? dtype=None) -> Tensor"
)
def norm_by_name(
    self: Any, ord: str, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    return fn.linalg_matrix_norm(self, ord, dim or (-2, -1), keepdim, dtype=dtype)


@composite("linalg_cond(Tensor self, Scalar? p=None) -> Tensor")
def linalg_cond(self: Any, p: Any = None) -> Any:
    """The norm of A times that of its inverse; by singular values for p of 2 and -2."""
    if p is None or abs(p) == 2:
        check_matrix("linalg.cond", self._spec, square=False)
        S = fn.linalg_svdvals(self)
        first, last = fn.select(S, -1, 0), fn.select(S, -1, -1)
        return fn.div(last, first) if p == -2 else fn.div(first, last)
    return _cond_by_norms(self, p, str(p))


@composite("linalg_cond.p_str(Tensor self, str p) -> Tensor")
def cond_by_name(self: Any, p: str) -> Any:
    return _cond_by_norms(self, p, p)


def _cond_by_norms(self: Any, p: Any, shown: str) -> Any:
    check_matrix(f"linalg.cond(ord={shown})", self._spec)
    inverse, info = fn.linalg_inv_ex(self)
    made = fn.mul(fn.linalg_matrix_norm(self, p), fn.linalg_matrix_norm(inverse, p))
    return fn.masked_fill(made, fn.ne(info, 0), math.inf)


# ------------------------------------------------------------------------------------ distances --
def _cdist_meta(x1: Spec, x2: Spec, p: float, compute_mode: int | None) -> Spec:
    for name, spec in (("X1", x1), ("X2", x2)):
        if spec.dtype.category != 2:
            raise DTypeError(
                f"cdist only supports floating-point dtypes, {name} got: {spec.dtype.c_name}"
            )
        if spec.ndim < 2:
            raise ShapeError(f"cdist only supports at least 2D tensors, {name} got: {spec.ndim}D")
    if x1.shape[-1] != x2.shape[-1]:
        raise ShapeError(
            f"X1 and X2 must have the same number of columns. X1: {x1.shape[-1]} X2: {x2.shape[-1]}"
        )
    if p < 0:
        raise ShapeError("cdist only supports non-negative p values")
    if x1.dtype is not x2.dtype:
        raise DTypeError(f"expected scalar type {x1.dtype.c_name} but found {x2.dtype.c_name}")
    batch = broadcast_shapes(x1.shape[:-2], x2.shape[:-2])
    shape = (*batch, x1.shape[-2], x2.shape[-2])
    return Spec.make(shape, x1.dtype, common_device((x1, x2)))


def _cdist(xp: Any, x1: Any, x2: Any, p: float, compute_mode: int | None) -> Any:
    """As torch: Euclidean distances of more than 25 points come from one product."""
    many = max(x1.shape[-2], x2.shape[-2]) > 25
    if p == 2 and compute_mode != 2 and (compute_mode == 1 or many):
        squares = (x1 * x1).sum(-1)[..., :, None] + (x2 * x2).sum(-1)[..., None, :]
        squares = squares - 2 * xp.matmul(x1, x2.swapaxes(-1, -2))
        return xp.sqrt(xp.maximum(squares, 0))
    size = abs(x1[..., :, None, :] - x2[..., None, :, :])
    if p == 0:
        return (size != 0).sum(-1)
    if math.isinf(p):
        return size.max(-1, initial=0)
    if p == 1:
        return size.sum(-1)
    return (size**p).sum(-1) ** (1 / p)


def _cdist_grads(g: Any, x1: Any, x2: Any, out: Any, p: float, needed: Any) -> Any:
    """d|u|_p = sign(u) |u|^(p-1) / |u|_p^(p-1), and 0 where two points are one."""
    if p == 0:
        return fn.zeros_like(x1), fn.zeros_like(x2)
    near = fn.sub(fn.unsqueeze(x1, -2), fn.unsqueeze(x2, -3))
    size, far = fn.abs(near), fn.unsqueeze(out, -1)
    if math.isinf(p):
        share = fn.mul(fn.sgn(near), fn.eq(size, far))
    elif p == 1:
        share = fn.sgn(near)
    elif p == 2:
        share = fn.div(near, far)
    else:
        share = fn.mul(fn.sgn(near), fn.pow(fn.div(size, far), p - 1))
    share = fn.mul(fn.masked_fill(share, fn.eq(far, 0), 0), fn.unsqueeze(g, -1))
    left = fn.sum(share, [-2]) if needed[0] else None
    return left, fn.neg(fn.sum(share, [-3])) if needed[1] else None


structured(
    "_cdist_forward(Tensor x1, Tensor x2, float p, int? compute_mode) -> Tensor",
    meta=_cdist_meta,
    kernel=_cdist,
    vjp={"x1 x2": _cdist_grads},
    by_value=True,
)


@composite("cdist(Tensor x1, Tensor x2, float p=2., int? compute_mode=None) -> Tensor")
def cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: Any = None) -> Any:
    return fn._cdist_forward(x1, x2, p, compute_mode)


@composite("cosine_similarity(Tensor x1, Tensor x2, int dim=1, float eps=1e-08) -> Tensor")
def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """Each side is scaled on its own, so that the result stays within [-1, 1]."""
    common = common_dtype(x1._spec, x2._spec)
    if common.category != 2:
        raise DTypeError(
            f"expected common dtype to be floating point, yet common dtype is {common.c_name}"
        )
    shape = broadcast_shapes(x1._spec.shape, x2._spec.shape)
    x1, x2 = (fn.expand(x if x._spec.dtype is common else fn._cast(x, common), shape)
              for x in (x1, x2))  # fmt: skip
    unit = [
        fn.div(x, fn.clamp_min(fn.linalg_vector_norm(x, 2, [dim], True), eps)) for x in (x1, x2)
    ]
    return fn.sum(fn.mul(*unit), [dim])


@composite(
    "pairwise_distance(Tensor x1, Tensor x2, float p=2., float eps=9.9999999999999995e-07,"
    " bool keepdim=False) -> Tensor"
)
def pairwise_distance(
    x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Any:
    return fn.linalg_vector_norm(fn.add(fn.sub(x1, x2), eps), p, [-1], keepdim)


# -------------------------------------------------------------------------------- odds and ends --
@composite("trace(Tensor self) -> Tensor")
def trace(self: Any) -> Any:
    if self._spec.ndim != 2:
        raise ShapeError(f"trace: expected a matrix, but got tensor with dim {self._spec.ndim}")
    return fn.sum(fn.diagonal(self))


@composite("linalg_diagonal(Tensor(a) A, *, int offset=0, int dim1=-2, int dim2=-1) -> Tensor(a)")
def linalg_diagonal(A: Any, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    return fn.diagonal(A, offset, dim1, dim2)


@composite("linalg_tensorsolve(Tensor self, Tensor other, int[]? dims=None) -> Tensor")
def linalg_tensorsolve(self: Any, other: Any, dims: Sequence[int] | None = None) -> Any:
    spec = self._spec
    if dims is not None:
        last = [wrap_dim(d, spec.ndim) for d in dims]
        self = fn.permute(self, [i for i in range(spec.ndim) if i not in last] + last)
    shape = self._spec.shape[other._spec.ndim :]
    n = math.prod(shape)
    if n != other._spec.numel:
        raise ShapeError(
            "Expected self to satisfy the requirement prod(self.shape[other.ndim:]) == "
            f"prod(self.shape[:other.ndim]), but got {n} != {other._spec.numel}"
        )
    flat = fn.linalg_solve(fn.reshape(self, (n, n)), fn.reshape(other, (n,)))
    return fn.reshape(flat, shape)


@composite("linalg_tensorinv(Tensor self, int ind=2) -> Tensor")
def linalg_tensorinv(self: Any, ind: int = 2) -> Any:
    first, last = self._spec.shape[:ind], self._spec.shape[ind:]
    n, m = math.prod(first), math.prod(last)
    if n != m:
        raise ShapeError(
            f"Expected self to satisfy the requirement prod(self.shape[ind:]) == "
            f"prod(self.shape[:ind]), but got {m} != {n}"
        )
    return fn.reshape(fn.linalg_inv(fn.reshape(self, (n, n))), last + first)


_PADE = (64764752532480000.0, 32382376266240000.0, 7771770303897600.0, 1187353796428800.0,
         129060195264000.0, 10559470521600.0, 670442572800.0, 33522128640.0, 1323241920.0,
         40840800.0, 960960.0, 16380.0, 182.0, 1.0)  # fmt: skip


def _matrix_exp(xp: Any, self: Any) -> Any:
    """Scaling and squaring with the Pade approximant of degree 13 (Higham 2005)."""
    if not self.size:
        return self
    a = self.astype("complex128" if self.dtype.kind == "c" else "float64")
    norm = float(abs(a).sum(-2).max())
    halvings = max(0, math.ceil(math.log2(norm / 5.37))) if 0 < norm < math.inf else 0
    a = a / 2.0**halvings
    eye = xp.eye(a.shape[-1], dtype=a.dtype)
    a2 = xp.matmul(a, a)
    odd = even = xp.zeros_like(a)
    power = xp.broadcast_to(eye, a.shape)
    for k in range(0, 14, 2):
        even = even + _PADE[k] * power
        odd = odd + _PADE[k + 1] * power
        power = xp.matmul(power, a2)
    odd = xp.matmul(a, odd)
    made = xp.linalg.solve(even - odd, even + odd)
    for _ in range(halvings):
        made = xp.matmul(made, made)
    return made


def _matrix_exp_grad(g: Any, self: Any) -> Any:
    """The upper right block of exp([[A^H, G], [0, A^H]])."""
    n = self._spec.shape[-1]
    a = mH(self)
    top = fn.cat([a, g], -1)
    bottom = fn.cat([fn.zeros_like(a), a], -1)
    made = fn.linalg_matrix_exp(fn.cat([top, bottom], -2))
    return fn.narrow(fn.narrow(made, -1, n, n), -2, 0, n)


def _matrix_exp_meta(self: Spec) -> Spec:
    wide = self.with_(dtype=float32) if self.dtype.is_reduced else self
    check_matrix("linalg.matrix_exp", wide)  # halves too, unlike LAPACK's
    return self.contiguous_


structured(
    "linalg_matrix_exp(Tensor self) -> Tensor",
    meta=_matrix_exp_meta,
    kernel=_matrix_exp,
    vjp={"self": _matrix_exp_grad},
)


@composite("matrix_exp(Tensor self) -> Tensor")
def matrix_exp(self: Any) -> Any:
    return fn.linalg_matrix_exp(self)
