"""Products of matrices and vectors: mm, bmm, matmul, linear, dot, the `add...` forms, cross.

Products do not promote: both sides have one dtype. Floats go to BLAS, integers are exact. A
derivative with respect to a complex matrix takes the conjugate of the other one, as in torch.
What is built on these (einsum, tensordot, kron ...) is in `contract.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..call import fn
from ..errors import DTypeError, ShapeError, UnsupportedError
from ..family import common_device, common_dtype, composite, structured
from ..places import as_element
from ..spec import Spec, broadcast_shapes, wrap_dim

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..dtype import DType


def check_product(name: str, a: Spec, b: Spec) -> None:
    """Raise unless `name` multiplies the two: one dtype, and not bool."""
    if a.dtype is not b.dtype:
        raise DTypeError(
            f"expected m1 and m2 to have the same dtype, but got: {a.dtype.c_name.lower()} != "
            f"{b.dtype.c_name.lower()}"
        )
    if a.dtype.category == 0:
        raise UnsupportedError(f"\"{name}\" not implemented for 'Bool'")


def product(xp: Any, a: Any, b: Any) -> Any:
    """Return a @ b over the last two dims: by BLAS, or exactly for integers."""
    if a.dtype.kind in "iu":
        return _integer_product(xp, a, b)
    return xp.matmul(a, b)


_SMALL = 1 << 15  # multiplications below which numpy's own integer loop is as fast


def _integer_product(xp: Any, a: Any, b: Any) -> Any:
    """Return a @ b of integers. BLAS in float64 is exact while every sum stays below 2^53."""
    if not a.size or not b.size or a.size * b.shape[-1] < _SMALL:
        return xp.matmul(a, b)
    largest = max(int(a.max()), -int(a.min())) * max(int(b.max()), -int(b.min()))
    if largest * a.shape[-1] >= 1 << 53:
        return xp.matmul(a, b)
    return xp.matmul(a.astype("float64"), b.astype("float64")).astype("int64")


def mT(x: Any) -> Any:
    """Return x with its last two dims swapped."""
    return fn.transpose(x, -2, -1)


def mH(x: Any) -> Any:
    """Return the conjugate of x with its last two dims swapped."""
    return fn.conj(fn.transpose(x, -2, -1))


# ------------------------------------------------------------------------------------ products --
def _mm_shape(a: Sequence[int], b: Sequence[int]) -> tuple[int, int]:
    if a[1] != b[0]:
        hint = " Did you mean mat2.T?" if a[1] == b[1] else ""
        raise ShapeError(
            f"mat1 and mat2 shapes cannot be multiplied ({a[0]}x{a[1]} and {b[0]}x{b[1]}); "
            f"mat1.shape[1] must equal mat2.shape[0].{hint}"
        )
    return a[0], b[1]


def _mm_meta(self: Spec, mat2: Spec) -> Spec:
    for name, spec in (("self", self), ("mat2", mat2)):
        if spec.ndim != 2:
            raise ShapeError(f"{name} must be a matrix, got shape {list(spec.shape)}")
    shape = _mm_shape(self.shape, mat2.shape)
    check_product("addmm_impl_cpu_", self, mat2)
    return Spec.make(shape, self.dtype, common_device((self, mat2)))


structured(
    "mm(Tensor self, Tensor mat2) -> Tensor",
    meta=_mm_meta,
    kernel=lambda xp, self, mat2: product(xp, self, mat2),
    vjp={
        "self": lambda g, mat2: fn.mm(g, fn.conj(fn.t(mat2))),
        "mat2": lambda g, self: fn.mm(fn.conj(fn.t(self)), g),
    },
    dims="mk,kn->mn",
)


def _check_batches(a: Sequence[int], b: Sequence[int]) -> None:
    if a[0] != b[0] or a[2] != b[1]:
        raise ShapeError(
            f"Expected size for first two dimensions of batch2 tensor to be: [{a[0]}, {a[2]}] "
            f"but got: [{b[0]}, {b[1]}]."
        )


def _bmm_meta(self: Spec, mat2: Spec) -> Spec:
    for name, spec in (("batch1", self), ("batch2", mat2)):
        if spec.ndim != 3:
            raise ShapeError(f"{name} must be a 3D tensor, got shape {list(spec.shape)}")
    _check_batches(self.shape, mat2.shape)
    _check_scalar_type("bmm", self, mat2)
    shape = (*self.shape[:2], mat2.shape[2])
    return Spec.make(shape, self.dtype, common_device((self, mat2)))


def _check_scalar_type(name: str, a: Spec, b: Spec) -> None:
    if a.dtype is not b.dtype:
        raise DTypeError(f"expected scalar type {a.dtype.c_name} but found {b.dtype.c_name}")
    check_product(name, a, b)


structured(
    "bmm(Tensor self, Tensor mat2) -> Tensor",
    meta=_bmm_meta,
    kernel=lambda xp, self, mat2: product(xp, self, mat2),
    vjp={
        "self": lambda g, mat2: fn.bmm(g, mH(mat2)),
        "mat2": lambda g, self: fn.bmm(mH(self), g),
    },
    dims="bmk,bkn->bmn",
)


def _batched_meta(self: Spec, other: Spec) -> Spec:
    batch = broadcast_shapes(self.shape[:-2], other.shape[:-2])
    count = 1
    for n in batch:
        count *= n
    _check_batches((count, *self.shape[-2:]), (count, *other.shape[-2:]))
    _check_scalar_type("bmm", self, other)
    shape = (*batch, self.shape[-2], other.shape[-1])
    return Spec.make(shape, self.dtype, common_device((self, other)))


# torch expands, folds into bmm and unfolds: five ops for what one does.
structured(
    "farspan::_batched_mm(Tensor self, Tensor other) -> Tensor",
    meta=_batched_meta,
    kernel=lambda xp, self, other: product(xp, self, other),
    vjp={
        "self": lambda g, other: fn._batched_mm(g, mH(other)),
        "other": lambda g, self: fn._batched_mm(mH(self), g),
    },
)


@composite("matmul(Tensor self, Tensor other) -> Tensor")
def matmul(self: Any, other: Any) -> Any:
    a, b = self._spec.ndim, other._spec.ndim
    if a == 2 and b == 2:
        return fn.mm(self, other)
    if not a or not b:
        raise ShapeError(
            f"both arguments to matmul need to be at least 1D, but they are {a}D and {b}D"
        )
    if b == 1:
        return (fn.dot, fn.mv, fn.linear)[min(a, 3) - 1](self, other)
    if b == 2:
        return fn.linear(self, fn.t(other))
    if a == 1:
        return fn.squeeze(fn._batched_mm(fn.unsqueeze(self, 0), other), -2)
    if a == 3 and b == 3 and self._spec.shape[0] == other._spec.shape[0]:
        return fn.bmm(self, other)
    return fn._batched_mm(self, other)


@composite("linalg_matmul(Tensor self, Tensor other) -> Tensor")
def linalg_matmul(self: Any, other: Any) -> Any:
    return fn.matmul(self, other)


def _mv_meta(self: Spec, vec: Spec) -> Spec:
    if self.ndim != 2 or vec.ndim != 1:
        raise ShapeError(f"vector + matrix @ vector expected, got 1, {self.ndim}, {vec.ndim}")
    if self.shape[1] != vec.shape[0]:
        raise ShapeError(
            f"size mismatch, got input ({self.shape[0]}), mat "
            f"({self.shape[0]}x{self.shape[1]}), vec ({vec.shape[0]})"
        )
    if self.dtype is not vec.dtype:
        found = (vec.dtype.c_name, self.dtype.c_name, vec.dtype.c_name)
        raise DTypeError(
            "addmv input tensors must have the same dtype, but got "
            f"{found[0]}, {found[1]}, and {found[2]}"
        )
    check_product("addmv_impl_cpu", self, vec)
    return Spec.make(self.shape[:1], self.dtype, common_device((self, vec)))


structured(
    "mv(Tensor self, Tensor vec) -> Tensor",
    meta=_mv_meta,
    kernel=lambda xp, self, vec: xp.matmul(self, vec),
    vjp={
        "self": lambda g, vec: fn.outer(g, fn.conj(vec)),
        "vec": lambda g, self: fn.mv(fn.conj(fn.t(self)), g),
    },
    dims="mk,k->m",
)


def _dot_meta(self: Spec, tensor: Spec) -> Spec:
    if self.ndim != 1 or tensor.ndim != 1:
        raise ShapeError(f"1D tensors expected, but got {self.ndim}D and {tensor.ndim}D tensors")
    if self.dtype is not tensor.dtype:
        raise DTypeError(
            "dot : expected both vectors to have same dtype, but found "
            f"{self.dtype.c_name} and {tensor.dtype.c_name}"
        )
    if self.shape != tensor.shape:
        n, m = self.shape[0], tensor.shape[0]
        raise ShapeError(
            f"inconsistent tensor size, expected tensor [{n}] and src [{m}] to have the same "
            f"number of elements, but got {n} and {m} elements respectively"
        )
    check_product("dot", self, tensor)
    return Spec.make((), self.dtype, common_device((self, tensor)))


structured(
    "dot(Tensor self, Tensor tensor) -> Tensor",
    meta=_dot_meta,
    kernel=lambda xp, self, tensor: xp.dot(self, tensor),
    vjp={
        "self": lambda g, tensor: fn.mul(g, fn.conj(tensor)),
        "tensor": lambda g, self: fn.mul(g, fn.conj(self)),
    },
    dims="k,k->",
)


@composite("vdot(Tensor self, Tensor other) -> Tensor")
def vdot(self: Any, other: Any) -> Any:
    return fn.dot(fn.conj(self), other)


@composite("linalg_vecdot(Tensor x, Tensor y, *, int dim=-1) -> Tensor")
def linalg_vecdot(x: Any, y: Any, *, dim: int = -1) -> Any:
    return fn.sum(fn.mul(fn.conj(x), y), dim)


@composite("outer(Tensor self, Tensor vec2) -> Tensor")
def outer(self: Any, vec2: Any) -> Any:
    for name, spec in (("self", self._spec), ("vec2", vec2._spec)):
        if spec.ndim != 1:
            raise ShapeError(f"outer: Expected 1-D argument {name}, but got {spec.ndim}-D")
    return fn.mul(fn.unsqueeze(self, 1), vec2)


@composite("ger(Tensor self, Tensor vec2) -> Tensor")
def ger(self: Any, vec2: Any) -> Any:
    return fn.outer(self, vec2)


@composite("inner(Tensor self, Tensor other) -> Tensor")
def inner(self: Any, other: Any) -> Any:
    a, b = self._spec, other._spec
    if not a.shape or not b.shape:
        return fn.mul(self, other)
    if a.shape[-1] != b.shape[-1]:
        raise ShapeError(
            "inner() the last dimension must match on both input tensors but got shapes "
            f"{list(a.shape)} and {list(b.shape)}"
        )
    return fn.tensordot(self, other, [-1], [-1])


# -------------------------------------------------------------------------------------- linear --
def _linear_meta(input: Spec, weight: Spec, bias: Spec | None) -> Spec:
    if weight.ndim not in (1, 2) or not input.shape:
        raise ShapeError(
            "linear(): input must be at least 1D and weight 1D or 2D, got "
            f"{input.ndim}D and {weight.ndim}D"
        )
    lead, last = input.shape[:-1], weight.shape[-1]
    shape = (*lead, *weight.shape[:-1])
    if input.shape[-1] != last:
        rows = 1
        for n in lead:
            rows *= n
        if weight.ndim == 1:
            raise ShapeError(f"size mismatch, got input ({rows}), mat ({rows}x{input.shape[-1]}), "
                             f"vec ({last})")  # fmt: skip
        _mm_shape((rows, input.shape[-1]), (last, weight.shape[0]))
    check_product("addmm_impl_cpu_", input, weight)
    if bias is not None:
        _check_added(bias, input.dtype, shape)
    return Spec.make(shape, input.dtype, common_device([s for s in (input, weight, bias) if s]))


def _check_added(spec: Spec, dtype: DType, shape: Sequence[int]) -> None:
    """Raise unless a tensor of `spec` can be added to a product of this dtype and shape."""
    if spec.dtype is not dtype:
        raise DTypeError(
            f"self and mat2 must have the same dtype, but got {spec.dtype.c_name} and "
            f"{dtype.c_name}"
        )
    lead = len(shape) - spec.ndim
    for i, n in enumerate(spec.shape, lead):
        if lead < 0 or n not in (1, shape[i]):
            wanted = shape[i] if i >= 0 else 1
            raise ShapeError(
                f"The expanded size of the tensor ({wanted}) must match the existing size ({n}) "
                f"at non-singleton dimension {max(i, 0)}.  Target sizes: {list(shape)}.  "
                f"Tensor sizes: {list(spec.shape)}"
            )


def _linear_kernel(xp: Any, input: Any, weight: Any, bias: Any) -> Any:
    """Fold the leading dims into rows: one product instead of one a row of the batch."""
    if input.ndim > 2:
        rows = input.reshape(input.size // max(input.shape[-1], 1), input.shape[-1])
        if not input.shape[-1]:
            rows = xp.zeros((_count(input.shape[:-1]), 0), input.dtype)
        out = product(xp, rows, weight.T if weight.ndim == 2 else weight)
        out = out.reshape(input.shape[:-1] + weight.shape[:-1])
    elif weight.ndim == 2 and input.ndim == 2:
        out = product(xp, input, weight.T)
    else:
        out = xp.matmul(input, weight.T)
    if bias is not None:
        out += bias
    return out


def _count(shape: Sequence[int]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def _linear_input_grad(g: Any, weight: Any, weight_spec: Spec) -> Any:
    if weight_spec.ndim == 1:
        return fn.mul(fn.unsqueeze(g, -1), fn.conj(weight))
    return fn.linear(g, fn.conj(fn.t(weight)))


def _linear_weight_grad(g: Any, input: Any, input_spec: Spec, weight_spec: Spec) -> Any:
    lead = _count(input_spec.shape[:-1])
    if input_spec.ndim != 2:
        input = fn.reshape(input, (lead, input_spec.shape[-1]))
    if weight_spec.ndim == 1:
        return fn.mv(fn.conj(fn.t(input)), fn.reshape(g, (lead,)))
    if input_spec.ndim != 2:
        g = fn.reshape(g, (lead, weight_spec.shape[0]))
    return fn.mm(fn.t(g), fn.conj(input))


structured(
    "linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor",
    meta=_linear_meta,
    kernel=_linear_kernel,
    vjp={
        "input": _linear_input_grad,
        "weight": _linear_weight_grad,
        "bias": lambda g: g,  # the tape sums it over what was broadcast
    },
)


# ----------------------------------------------------------------------------- beta*self + ... --
def scaled(x: Any, factor: Any) -> Any:
    """Return x times the conjugate of a Python number."""
    return x if factor == 1 else fn.mul(x, factor.conjugate())


def _added(xp: Any, out: Any, self: Any, beta: Any, alpha: Any) -> Any:
    """Return beta * self + alpha * out; with beta 0, nan and inf in self do not count."""
    if out.dtype.kind in "iu":
        beta, alpha = as_element(beta, out.dtype), as_element(alpha, out.dtype)
    if alpha != 1:
        out = out * alpha
    if beta == 0:
        return out
    return out + (self if beta == 1 else beta * self)


def _fused(line: str, meta: Callable[..., Spec], left: str, right: str, grads: Any) -> None:
    """Declare ``beta * self + alpha * (left @ right)``."""

    def full(self: Spec, a: Spec, b: Spec, beta: Any, alpha: Any) -> Spec:
        out = meta(a, b)
        _check_added(self, out.dtype, out.shape)
        common_device((self, a, b))
        return out

    def kernel(xp: Any, self: Any, a: Any, b: Any, beta: Any, alpha: Any) -> Any:
        made = xp.multiply.outer(a, b) if a.ndim == b.ndim == 1 else product(xp, a, b)
        return _added(xp, made, self, beta, alpha)

    structured(
        line,
        meta=full,
        kernel=kernel,
        vjp={"self": lambda g, beta: scaled(g, beta), left: grads[0], right: grads[1]},
    )


def _matrix_meta(a: Spec, b: Spec) -> Spec:
    for name, spec in (("mat1", a), ("mat2", b)):
        if spec.ndim != 2:
            raise ShapeError(f"{name} must be a matrix, got {spec.ndim}-D tensor")
    return _mm_meta(a, b)


_fused(
    "addmm(Tensor self, Tensor mat1, Tensor mat2, *, Scalar beta=1, Scalar alpha=1) -> Tensor",
    _matrix_meta,
    "mat1",
    "mat2",
    (
        lambda g, mat2, alpha: scaled(fn.mm(g, fn.conj(fn.t(mat2))), alpha),
        lambda g, mat1, alpha: scaled(fn.mm(fn.conj(fn.t(mat1)), g), alpha),
    ),
)
_fused(
    "baddbmm(Tensor self, Tensor batch1, Tensor batch2, *, Scalar beta=1, Scalar alpha=1)"
    " -> Tensor",
    _bmm_meta,
    "batch1",
    "batch2",
    (
        lambda g, batch2, alpha: scaled(fn.bmm(g, mH(batch2)), alpha),
        lambda g, batch1, alpha: scaled(fn.bmm(mH(batch1), g), alpha),
    ),
)
_fused(
    "addmv(Tensor self, Tensor mat, Tensor vec, *, Scalar beta=1, Scalar alpha=1) -> Tensor",
    _mv_meta,
    "mat",
    "vec",
    (
        lambda g, vec, alpha: scaled(fn.outer(g, fn.conj(vec)), alpha),
        lambda g, mat, alpha: scaled(fn.mv(fn.conj(fn.t(mat)), g), alpha),
    ),
)


def _outer_meta(a: Spec, b: Spec) -> Spec:
    for name, spec in (("vec1", a), ("vec2", b)):
        if spec.ndim != 1:
            raise ShapeError(f"addr: Expected 1-D argument {name}, but got {spec.ndim}-D")
    return Spec.make(a.shape + b.shape, common_dtype(a, b), common_device((a, b)))


_fused(
    "addr(Tensor self, Tensor vec1, Tensor vec2, *, Scalar beta=1, Scalar alpha=1) -> Tensor",
    _outer_meta,
    "vec1",
    "vec2",
    (
        lambda g, vec2, alpha: scaled(fn.mv(g, fn.conj(vec2)), alpha),
        lambda g, vec1, alpha: scaled(fn.mv(fn.t(g), fn.conj(vec1)), alpha),
    ),
)


@composite(
    "addbmm(Tensor self, Tensor batch1, Tensor batch2, *, Scalar beta=1, Scalar alpha=1) -> Tensor"
)
def addbmm(self: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """The sum over the batch is one longer sum over the inner dim."""
    _bmm_meta(batch1._spec, batch2._spec)
    b, n, m = batch1._spec.shape
    side_by_side = fn.reshape(fn.permute(batch1, (1, 0, 2)), (n, b * m))
    stacked = fn.reshape(batch2, (b * m, batch2._spec.shape[2]))
    return fn.addmm(self, side_by_side, stacked, beta=beta, alpha=alpha)


# --------------------------------------------------------------------------------------- cross --
def _cross_meta(self: Spec, other: Spec, dim: int) -> Spec:
    if self.ndim != other.ndim:
        raise ShapeError("linalg.cross: inputs must have the same number of dimensions.")
    at = wrap_dim(dim, self.ndim)
    if self.shape[at] != 3 or other.shape[at] != 3:
        raise ShapeError(
            f"linalg.cross: inputs dimension {dim} must have length 3. Got {self.shape[at]} and "
            f"{other.shape[at]}"
        )
    check_product("cross", self, other)
    shape = broadcast_shapes(self.shape, other.shape)
    return Spec.make(shape, self.dtype, common_device((self, other)))


def _cross_kernel(xp: Any, self: Any, other: Any, dim: int) -> Any:
    a, b = xp.moveaxis(self, dim, 0), xp.moveaxis(other, dim, 0)
    parts = [a[i] * b[j] - a[j] * b[i] for i, j in ((1, 2), (2, 0), (0, 1))]
    return xp.stack(parts, axis=dim)


structured(
    "linalg_cross(Tensor self, Tensor other, *, int dim=-1) -> Tensor",
    meta=_cross_meta,
    kernel=_cross_kernel,
    vjp={
        "self": lambda g, other, dim: fn.linalg_cross(fn.conj(other), g, dim=dim),
        "other": lambda g, self, dim: fn.linalg_cross(g, fn.conj(self), dim=dim),
    },
)


@composite("cross(Tensor self, Tensor other, int? dim=None) -> Tensor")
def cross(self: Any, other: Any, dim: int | None = None) -> Any:
    """Without `dim`, along the first dim of size 3."""
    if dim is None:
        dim = next((i for i, n in enumerate(self._spec.shape) if n == 3), None)
        if dim is None:
            raise ShapeError("no dimension of size 3 in input")
    return fn.linalg_cross(self, other, dim=dim)
