"""Differences and sums along a dim: diff, gradient, the trapezoidal rule; powers, combinations.

Composites of slices and sums, with torch's words where an argument does not fit.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import bool_, int64
from ..errors import BadValueError, ShapeError, ValueRangeError
from ..family import composite, creation, factory_spec
from ..spec import Spec, wrap_dim

if TYPE_CHECKING:
    from collections.abc import Sequence


def _slice(x: Any, dim: int, start: int, stop: int) -> Any:
    """Return x[start:stop] along dim; a stop of 0 means the end, a negative one counts from it."""
    return fn.slice(x, dim, start, stop or None)


# ---------------------------------------------------------------------------------------- diff --
def _check_diff(self: Spec, dim: int, other: Any) -> None:
    if other is None:
        return
    spec = other._spec
    if spec.ndim != self.ndim:
        raise ShapeError("diff expects prepend or append to be the same dimension as input")
    for d, (n, m) in enumerate(zip(self.shape, spec.shape, strict=True)):
        if d != dim and n != m:
            raise ShapeError(
                "diff expects the shape of tensor to prepend or append to match that of input "
                f"except along the differencing dimension; input.size({d}) = {n}, but got "
                f"tensor.size({d}) = {m}"
            )


@composite(
    "diff(Tensor self, int n=1, int dim=-1, Tensor? prepend=None, Tensor? append=None) -> Tensor"
)
def diff(self: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    spec = self._spec
    if not spec.ndim:
        raise ShapeError("diff expects input to be at least one-dimensional")
    if n < 0:
        raise ShapeError(f"order must be non-negative but got {n}")
    dim = wrap_dim(dim, spec.ndim)
    _check_diff(spec, dim, prepend)
    _check_diff(spec, dim, append)
    x = self
    if prepend is not None or append is not None:
        x = fn.cat([t for t in (prepend, self, append) if t is not None], dim)
    if not n:
        return fn.clone(x)
    subtract = fn.logical_xor if x._spec.dtype is bool_ else fn.sub
    for _ in range(min(n, x._spec.shape[dim])):
        x = subtract(_slice(x, dim, 1, 0), _slice(x, dim, 0, -1))
    return x


# ------------------------------------------------------------------------------------- gradient --
def _check_gradient(spec: Spec, dims: Sequence[int], edge_order: int) -> None:
    if edge_order not in (1, 2):
        raise ShapeError("torch.gradient only supports edge_order=1 and edge_order=2.")
    wrapped = [wrap_dim(d, spec.ndim) for d in dims]
    for d in wrapped:
        if wrapped.count(d) > 1:
            raise ShapeError(f"dim {d} appears multiple times in the list of dims")
        if (spec.shape[d] if spec.shape else 1) < edge_order + 1:
            raise ShapeError(
                "torch.gradient expected each dimension size to be at least edge_order+1"
            )


def _even_gradient(x: Any, h: Any, dim: int, edge_order: int) -> Any:
    """Central differences with a step h, and one-sided ones at both ends."""
    n = x._spec.shape[dim]

    def at(i: int) -> Any:
        return fn.narrow(x, dim, i % n, 1)

    if edge_order == 1:
        first = fn.div(fn.sub(at(1), at(0)), h)
        last = fn.div(fn.sub(at(-1), at(-2)), h)
    else:
        first = fn.div(
            fn.sub(fn.sub(fn.mul(at(1), 2.0), fn.mul(at(0), 1.5)), fn.mul(at(2), 0.5)), h
        )
        last = fn.div(
            fn.add(fn.sub(fn.mul(at(-1), 1.5), fn.mul(at(-2), 2.0)), fn.mul(at(-3), 0.5)), h
        )
    middle = fn.div(fn.sub(_slice(x, dim, 2, 0), _slice(x, dim, 0, -2)), h * 2)
    return fn.cat([first, middle, last], dim)


def _uneven_gradient(x: Any, places: Any, dim: int, edge_order: int) -> Any:
    """The same for samples at `places`: weights of the parabola through three of them."""
    spec = x._spec
    n = spec.shape[dim]
    steps = fn.diff(places)

    def along(w: Any) -> Any:
        return fn.reshape(w, [-1 if d == dim else 1 for d in range(spec.ndim)])

    def at(i: int) -> Any:
        return fn.narrow(x, dim, i % n, 1)

    def step(i: int) -> Any:
        return along(fn.narrow(steps, 0, i % (n - 1), 1))

    h1, h2 = along(_slice(steps, 0, 0, -1)), along(_slice(steps, 0, 1, 0))
    left = fn.div(fn.neg(h2), fn.mul(h1, fn.add(h1, h2)))
    here = fn.div(fn.sub(h2, h1), fn.mul(h1, h2))
    right = fn.div(h1, fn.mul(h2, fn.add(h1, h2)))
    middle = fn.add(
        fn.add(fn.mul(_slice(x, dim, 0, -2), left), fn.mul(_slice(x, dim, 1, -1), here)),
        fn.mul(_slice(x, dim, 2, 0), right),
    )
    if edge_order == 1:
        first = fn.div(fn.sub(at(1), at(0)), step(0))
        last = fn.div(fn.sub(at(-1), at(-2)), step(-1))
    else:
        first = _parabola(at(0), at(1), at(2), step(0), step(1))
        last = fn.neg(_parabola(at(-1), at(-2), at(-3), step(-1), step(-2)))
    return fn.cat([first, middle, last], dim)


def _parabola(a: Any, b: Any, c: Any, h1: Any, h2: Any) -> Any:
    """Return the slope at a of the parabola through a, b, c that stand h1 and h2 apart."""
    both = fn.add(h1, h2)
    wa = fn.neg(fn.div(fn.add(both, h1), fn.mul(h1, both)))
    wb = fn.div(both, fn.mul(h1, h2))
    wc = fn.neg(fn.div(h1, fn.mul(h2, both)))
    return fn.add(fn.add(fn.mul(a, wa), fn.mul(b, wb)), fn.mul(c, wc))


def _gradients(self: Any, spacing: Any, dim: Any, edge_order: int) -> Any:
    """Return the gradient along each of `dim`; spacing: a number or a list, one a dim."""
    spec = self._spec
    dims = list(range(spec.ndim)) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    if isinstance(spacing, (list, tuple)):
        if len(spacing) != len(dims):
            whole = dim is None
            raise ShapeError(
                "torch.gradient expected spacing to be unspecified, a scalar, or a list of length "
                + (f"equal to 'self.dim() = {spec.ndim}'" if whole else f"{len(dims)}")
                + f", since dim argument was {'not given' if whole else 'given'}, but got a list "
                f"of length {len(spacing)}"
            )
    else:
        spacing = [1 if spacing is None else spacing] * len(dims)
    _check_gradient(spec, dims, edge_order)
    found = []
    for h, d in zip(spacing, dims, strict=True):
        d = wrap_dim(d, spec.ndim)
        if hasattr(h, "_spec") and h._spec.ndim:
            if h._spec.ndim != 1 or h._spec.shape[0] != spec.shape[d]:
                raise ShapeError(
                    "torch.gradient expected each element of spacing to have one dimension and as "
                    f"many coordinates as the input along dim {d}, but got shape "
                    f"{list(h._spec.shape)}"
                )
            found.append(_uneven_gradient(self, h, d, edge_order))
        else:
            found.append(_even_gradient(self, h, d, edge_order))
    return tuple(found)


for _overload, _spacing, _dims in (
    ("scalarint", "Scalar? spacing=None, ", "int? dim=None"),
    ("scalararray", "Scalar spacing, ", "int[] dim"),
    ("array", "", "int[] dim"),
    ("scalarrayint", "Scalar[] spacing, ", "int? dim=None"),
    ("scalarrayarray", "Scalar[] spacing, ", "int[] dim"),
    ("tensorarrayint", "Tensor[] spacing, ", "int? dim=None"),
    ("tensorarray", "Tensor[] spacing, ", "int[] dim"),
):
    composite(f"gradient.{_overload}(Tensor self, *, {_spacing}{_dims}, int edge_order=1)"
              " -> Tensor[]")(
        lambda self, *, spacing=None, dim=None, edge_order=1: _gradients(
            self, spacing, dim, edge_order
        )
    )  # fmt: skip


# ------------------------------------------------------------------------------------ integrals --
def _check_trapezoid(name: str, y: Any, dim: int, x: Any = None, dx: Any = 1) -> int:
    if isinstance(dx, (bool, complex)):
        raise ShapeError(f"{name}: Currently, we only support dx as a real number.")
    if not y._spec.ndim:
        raise ValueRangeError(f"Dimension specified as {dim} but tensor has no dimensions")
    dim = wrap_dim(dim, y._spec.ndim)
    for letter, t in (("y", y), ("x", x)):
        if t is not None and t._spec.dtype is bool_ and (y._spec.shape[dim] or "cum" in name):
            raise ShapeError(
                f"{name}: received a bool input for `{letter}`, but bool is not supported"
            )
    return dim


def _nothing(y: Any, dim: int) -> Any:
    """Return the integral over no samples: zeros."""
    shape = y._spec.shape
    return fn.new_zeros(y, shape[:dim] + shape[dim + 1 :])


def _steps_of(name: str, y: Spec, x: Any, dim: int) -> Any:
    """Return the distances between the sample points x, shaped to multiply slices of y."""
    spec = x._spec
    if spec.ndim == 1:
        if spec.shape[0] != y.shape[dim]:
            raise ShapeError(f"{name}: There must be one `x` value for each sample point")
        x = fn.reshape(x, [-1 if d == dim else 1 for d in range(y.ndim)])
    elif spec.ndim < y.ndim:
        x = fn.reshape(x, (1,) * (y.ndim - spec.ndim) + spec.shape)
    at = dim + x._spec.ndim - y.ndim
    return fn.sub(_slice(x, at, 1, 0), _slice(x, at, 0, -1))


def _pairs(y: Any, dim: int) -> Any:
    return fn.add(_slice(y, dim, 0, -1), _slice(y, dim, 1, 0))


def _trapezoid_x(y: Any, x: Any, *, dim: int = -1) -> Any:
    dim = _check_trapezoid("trapezoid", y, dim, x)
    if not y._spec.shape[dim]:
        return _nothing(y, dim)
    areas = fn.mul(_pairs(y, dim), _steps_of("trapezoid", y._spec, x, dim))
    return fn.div(fn.sum(areas, [dim]), 2.0)


def _trapezoid_dx(y: Any, *, dx: Any = 1, dim: int = -1) -> Any:
    dim = _check_trapezoid("trapezoid", y, dim, dx=dx)
    if not y._spec.shape[dim]:
        return _nothing(y, dim)
    ends = fn.add(fn.select(y, dim, 0), fn.select(y, dim, -1))
    return fn.mul(fn.sub(fn.sum(y, [dim]), fn.mul(ends, 0.5)), float(dx))


composite("trapezoid.x(Tensor y, Tensor x, *, int dim=-1) -> Tensor")(_trapezoid_x)
composite("trapezoid.dx(Tensor y, *, Scalar dx=1, int dim=-1) -> Tensor")(_trapezoid_dx)
composite("trapz.x(Tensor y, Tensor x, *, int dim=-1) -> Tensor")(_trapezoid_x)
composite("trapz.dx(Tensor y, *, float dx=1., int dim=-1) -> Tensor")(_trapezoid_dx)


@composite("cumulative_trapezoid.x(Tensor y, Tensor x, *, int dim=-1) -> Tensor")
def cumulative_trapezoid_x(y: Any, x: Any, *, dim: int = -1) -> Any:
    dim = _check_trapezoid("cumulative_trapezoid", y, dim, x)
    steps = _steps_of("cumulative_trapezoid", y._spec, x, dim)
    return fn.div(fn.cumsum(fn.mul(_pairs(y, dim), steps), dim), 2.0)


@composite("cumulative_trapezoid.dx(Tensor y, *, Scalar dx=1, int dim=-1) -> Tensor")
def cumulative_trapezoid_dx(y: Any, *, dx: Any = 1, dim: int = -1) -> Any:
    dim = _check_trapezoid("cumulative_trapezoid", y, dim, dx=dx)
    return fn.cumsum(fn.mul(_pairs(y, dim), float(dx) / 2.0), dim)


# ------------------------------------------------------------------------ powers, combinations --
def _powers(x: Any, count: int) -> Any:
    """Return 1, x, x^2, ... along a new last dim."""
    spec = x._spec
    ones = fn.new_ones(x, (*spec.shape, min(count, 1)))
    if count < 2:
        return ones
    steps = fn.expand(fn.unsqueeze(x, -1), (*spec.shape, count - 1))
    return fn.cat([ones, fn.cumprod(steps, -1)], -1)


@composite("vander(Tensor x, int? N=None, bool increasing=False) -> Tensor")
def vander(x: Any, N: int | None = None, increasing: bool = False) -> Any:
    spec = x._spec
    if spec.ndim != 1:
        raise ShapeError("x must be a one-dimensional tensor.")
    count = spec.shape[0] if N is None else N
    if count < 0:
        raise ShapeError("N must be non-negative.")
    if spec.dtype.category < 2:
        x = fn._cast(x, int64)
    powers = _powers(x, count)
    return powers if increasing else fn.flip(powers, (1,))


@composite("linalg_vander(Tensor x, *, SymInt? N=None) -> Tensor")
def linalg_vander(x: Any, *, N: int | None = None) -> Any:
    spec = x._spec
    if spec.dtype is bool_:
        raise ShapeError(
            "linalg.vander supports floating point, complex, and integer tensors, but got Bool"
        )
    count = (spec.shape[-1] if spec.shape else 1) if N is None else N
    if count <= 1:
        raise ShapeError("N must be greater than 1.")
    if spec.dtype.category < 2:
        x = fn._cast(x, int64)
    return _powers(x if spec.shape else fn.reshape(x, (1,)), count)


def _combination_count(n: int, r: int, repeats: bool) -> int:
    if min(n, r) < 0:
        raise ShapeError(f"combinations of {r} out of {n}")
    n += r - 1 if repeats and n else 0
    if min(r, n - r) > 64:  # over 2^64, which no tensor has: counting them would take for ever
        raise ShapeError(f"the combinations of {r} out of {n} are too many for a tensor")
    return math.comb(n, r)


def _combination_kernel(xp: Any, n: int, r: int, repeats: bool, device: Any) -> Any:
    """Return the picks in order; itertools makes them without a loop of ours."""
    make = itertools.combinations_with_replacement if repeats else itertools.combinations
    count = _combination_count(n, r, repeats)
    if not count:  # itertools makes a list of r even so
        return xp.zeros((0, r), "int64")
    flat = itertools.chain.from_iterable(make(range(n), r))
    return xp.fromiter(flat, "int64", count * r).reshape(count, r)


creation(
    "farspan::_combinations(int n, int r, bool with_replacement, Device? device=None) -> Tensor",
    meta=lambda n, r, repeats, device: factory_spec(
        (_combination_count(n, r, repeats), r), int64, device
    ),
    kernel=_combination_kernel,
)


@composite("combinations(Tensor self, int r=2, bool with_replacement=False) -> Tensor")
def combinations(self: Any, r: int = 2, with_replacement: bool = False) -> Any:
    spec = self._spec
    if spec.ndim != 1:
        raise ShapeError(f"Expect a 1D vector, but got shape {list(spec.shape)}")
    if r < 0:
        raise ShapeError(f"Expect a non-negative number, but got {r}")
    if not r:
        return fn.new_empty(self, (0,))
    picks = fn._combinations(spec.shape[0], r, with_replacement, device=spec.device)
    return fn.reshape(fn.index_select(self, 0, fn.flatten(picks)), picks._spec.shape)


# -------------------------------------------------------------------------------------- places --
@composite("farspan::_unravel_index(Tensor indices, int[] shape) -> Tensor")
def _unravel_index(indices: Any, shape: Sequence[int]) -> Any:
    """Return the coordinates of flat places along a new last dim; what is outside wraps around."""
    if any(n < 0 for n in shape):
        raise BadValueError(f"'shape' cannot have negative values, but got {tuple(shape)}")
    indices = fn._cast(indices, int64)
    steps = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
    parts = [
        fn.remainder(fn.floor_divide(indices, step), n)
        for step, n in zip(steps, shape, strict=True)
    ]
    return fn.stack(parts, -1)
