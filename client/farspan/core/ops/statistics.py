"""Statistics of samples: quantiles, covariance, histograms.

Histograms are one kernel each, since their counts have no derivative; the others are composites.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import bool_, int64, uint64
from ..errors import ShapeError, UnsupportedError, ValueRangeError
from ..family import common_device, composite, reduced_shape, structured
from ..spec import Spec, wrap_dim, wrap_dims

if TYPE_CHECKING:
    from collections.abc import Sequence


# ------------------------------------------------------------------------------------ assertions --
def _asserted(xp: Any, self: Any, assert_msg: str, dep_token: Any) -> Any:
    if not self:
        raise ShapeError(assert_msg)
    return dep_token


structured(
    "_functional_assert_async.msg(Tensor self, str assert_msg, Tensor dep_token) -> Tensor",
    meta=lambda self, assert_msg, dep_token: dep_token.packed,
    kernel=_asserted,
    vjp={"dep_token": lambda g: g},
    moves=True,
)


def _require(condition: Any, message: str, x: Any) -> Any:
    """Return x; the error comes at the next wait if the condition, one element, does not hold."""
    return fn._functional_assert_async(condition, message, x)


# ------------------------------------------------------------------------------------- quantiles --
_INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


def _check_quantile(self: Spec, q: Any, dim: int | None, interpolation: str) -> None:
    if not self.numel:
        raise ShapeError("quantile() input tensor must be non-empty")
    if isinstance(q, Spec) and q.ndim > 1:
        raise ShapeError("quantile() q must be a scalar or 1D tensor")
    if self.dtype.name not in ("float32", "float64"):
        raise ShapeError("quantile() input tensor must be either float or double dtype")
    if isinstance(q, Spec) and q.dtype is not self.dtype:
        raise ShapeError("quantile() q tensor must be same dtype as the input tensor")
    if interpolation not in _INTERPOLATIONS:
        raise ShapeError(
            "quantile() interpolation must be one of linear, lower, higher, midpoint or nearest, "
            f"but got {interpolation}"
        )
    if isinstance(q, Spec):
        common_device((self, q))


def _quantile(
    self: Any, q: Any, dim: int | None, keepdim: bool, interpolation: str, skips_nan: bool
) -> Any:
    """Sort along the last dim, then pick (or mix) the ranks q (n - 1); nan sorts last.

    Where nan counts, a row with one has rank n - 1, which is nan; else n is how many there are.
    """
    spec = self._spec
    has_spec = hasattr(q, "_spec")
    _check_quantile(spec, q._spec if has_spec else q, dim, interpolation)
    if has_spec:
        inside = fn.all(fn.logical_and(fn.ge(fn.detach(q), 0), fn.le(fn.detach(q), 1)))
        q = _require(inside, "quantile() q values must be in the range [0, 1]", q)
    elif not 0 <= q <= 1:
        raise ShapeError(f"quantile() q must be in the range [0, 1] but got {q:g}")
    else:
        q = fn.new_full(self, (), q)
    flat = dim is None or not spec.ndim
    at = 0 if flat else wrap_dim(dim, spec.ndim)  # type: ignore[arg-type]
    x = fn.flatten(self) if flat else fn.movedim(self, at, -1)
    ordered = fn.sort(x)[0]
    n = ordered._spec.shape[-1]
    many = q if q._spec.ndim else fn.reshape(q, (1,))
    bad = fn.isnan(fn.detach(ordered))
    if skips_nan:
        count = fn.sum(fn.logical_not(bad), [-1], True)
        ranks = fn.clamp_min(fn.mul(many, fn.sub(count, 1)), 0)
    else:
        ranks = fn.masked_fill(fn.mul(many, n - 1), fn.any(bad, -1, True), float(n - 1))
    picked = _interpolated(ordered, ranks, interpolation)  # (..., q)
    if not q._spec.ndim:
        picked = fn.squeeze(picked, -1)
        if keepdim and spec.ndim:
            return fn.reshape(picked, (1,) * spec.ndim) if flat else fn.unsqueeze(picked, at)
        return picked
    picked = fn.movedim(picked, -1, 0)
    if keepdim and spec.ndim:
        if flat:
            return fn.reshape(picked, (-1,) + (1,) * spec.ndim)
        return fn.unsqueeze(picked, at + 1)
    return picked


def _interpolated(ordered: Any, ranks: Any, interpolation: str) -> Any:
    exact = {"lower": fn.floor, "higher": fn.ceil, "nearest": fn.round}.get(interpolation)
    low = fn._cast(fn.detach(exact(ranks) if exact else ranks), int64)
    below = fn.gather(ordered, -1, low)
    if exact:
        return below
    high = fn._cast(fn.ceil(fn.detach(ranks)), int64)
    weight = fn.full_like(ranks, 0.5) if interpolation == "midpoint" else fn.sub(ranks, low)
    return fn.lerp(below, fn.gather(ordered, -1, high), weight)


for _name in ("quantile", "nanquantile"):
    for _line in ("(Tensor self, Tensor q,", ".scalar(Tensor self, float q,"):
        composite(
            f"{_name}{_line} int? dim=None, bool keepdim=False, *, str"
            ' interpolation="linear") -> Tensor'
        )(
            lambda self, q, dim=None, keepdim=False, *, interpolation="linear", _name=_name: (
                _quantile(self, q, dim, keepdim, interpolation, _name == "nanquantile")
            )
        )


# ------------------------------------------------------------------------------------ covariance --
def _check_weights(name: str, weights: Any, count: int, kind: str) -> Any:
    spec = weights._spec
    if spec.ndim > 1:
        raise ShapeError(
            f"cov(): expected {name} to have one or fewer dimensions but got {name} with "
            f"{spec.ndim} dimensions"
        )
    if (spec.dtype.category in (0, 1)) != (kind == "integral") or spec.dtype.category == 3:
        raise ShapeError(
            f"cov(): expected {name} to have {kind} dtype but got {name} with "
            f"{spec.dtype.c_name} dtype"
        )
    if spec.numel != count:
        raise ShapeError(
            f"cov(): expected {name} to have the same numel as there are observations in the "
            f"input but got {spec.numel} != {count}"
        )
    fine = fn.all(fn.ge(fn.detach(weights), 0))
    return _require(fine, f"cov(): {name} cannot be negative", weights)


@composite(
    "cov(Tensor self, *, int correction=1, Tensor? fweights=None, Tensor? aweights=None) -> Tensor"
)
def cov(self: Any, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Any:
    spec = self._spec
    if spec.ndim > 2:
        raise ShapeError(
            "cov(): expected input to have two or fewer dimensions but got an input with "
            f"{spec.ndim} dimensions"
        )
    if spec.dtype is bool_:
        raise ShapeError("cov(): bool dtype is not supported for input")
    x = self if spec.ndim == 2 else fn.reshape(self, (1, spec.numel))
    count = x._spec.shape[1]
    w = None
    if fweights is not None:
        w = _check_weights("fweights", fweights, count, "integral")
    if aweights is not None:
        aweights = _check_weights("aweights", aweights, count, "floating point")
        w = aweights if w is None else fn.mul(w, aweights)
    if w is None:
        mean = fn.div(fn.sum(x, [1], True), count)
        norm: Any = max(count - correction, 0)
    else:
        total = fn.sum(w)
        some = fn.ne(fn.detach(total), 0)
        total = _require(some, "cov(): weights sum to zero, can't be normalized", total)
        mean = fn.div(fn.sum(fn.mul(x, w), [1], True), total)
        lost: Any = correction
        if aweights is not None and correction:
            lost = fn.mul(fn.div(fn.sum(fn.mul(w, aweights)), total), correction)
        norm = fn.clamp_min(fn.sub(total, lost), 0)
    apart = fn.sub(x, mean)
    other = fn.mul(apart, w) if w is not None else apart
    return fn.squeeze(fn.div(fn.mm(apart, fn.conj(fn.t(other))), norm))


@composite("corrcoef(Tensor self) -> Tensor")
def corrcoef(self: Any) -> Any:
    if self._spec.ndim > 2:
        raise ShapeError(
            "corrcoef(): expected input to have two or fewer dimensions but got an input with "
            f"{self._spec.ndim} dimensions"
        )
    c = fn.cov(self)
    if not c._spec.ndim:
        return fn.div(c, c)
    variance = fn.diag(c)
    if c._spec.dtype.is_complex:
        variance = fn.real(variance)
    scale = fn.sqrt(variance)
    c = fn.div(fn.div(c, fn.unsqueeze(scale, 1)), fn.unsqueeze(scale, 0))
    if not c._spec.dtype.is_complex:
        return fn.clamp(c, -1, 1)
    return fn.complex(fn.clamp(fn.real(c), -1, 1), fn.clamp(fn.imag(c), -1, 1))


# ------------------------------------------------------------------------------------ histograms --
def _check_bins(name: str, bins: Sequence[int]) -> None:
    for d, n in enumerate(bins):
        if n <= 0:
            raise ShapeError(f"{name}(): bins must be > 0, but got {n} for dimension {d}")


def _histc_meta(self: Spec, bins: int, min: Any, max: Any) -> Spec:
    if not self.dtype.is_floating_point:
        raise UnsupportedError(f'"histogram_cpu" not implemented for {self.dtype.c_name!r}')
    _check_bins("torch.histogram", (bins,))
    return Spec.make((bins,), self.dtype, self.device)


def _histc(xp: Any, self: Any, bins: int, min: Any, max: Any) -> Any:
    """Count by place in the range: (x - low) * bins / (high - low), as torch rounds it."""
    kind = self.dtype.type
    low, high = kind(min), kind(max)
    if low == high and self.size:
        low, high = self.min(), self.max()
    if low == high:
        low, high = low - kind(1), high + kind(1)
    if not (xp.isfinite(low) and xp.isfinite(high)):
        raise ShapeError(f"torch.histc: range of [{low:g}, {high:g}] is not finite")
    if low > high:
        raise ShapeError("torch.histc: max must be larger than min")
    x = self[xp.logical_and(self >= low, self <= high)]
    places = ((x - low) * kind(bins) / (high - low)).astype("int64")
    return xp.bincount(xp.minimum(places, bins - 1), minlength=bins)


structured(
    "histc(Tensor self, int bins=100, Scalar min=0, Scalar max=0) -> Tensor",
    meta=_histc_meta,
    kernel=_histc,
)


def _check_samples(self: Spec, weight: Spec | None, dims: int) -> int:
    """Return the number of coordinates; raise unless the input is a list of points."""
    name = "torch.histogramdd"
    if self.ndim < 2:
        raise ShapeError(f"{name}: input tensor should have at least 2 dimensions")
    if self.dtype.name not in ("float32", "float64"):
        raise UnsupportedError(f'"histogramdd" not implemented for {self.dtype.c_name!r}')
    n = self.shape[-1]
    if dims != n:
        raise ShapeError(
            f"{name}: expected {n} sequences of bin edges for a {n}-dimensional histogram but got "
            f"{dims}"
        )
    if weight is not None:
        if weight.dtype is not self.dtype:
            raise ShapeError(
                f"{name}: if weight tensor is provided, input tensor and weight tensor should have "
                f"the same dtype, but got input({self.dtype.c_name}), and "
                f"weight({weight.dtype.c_name})"
            )
        if weight.shape != self.shape[:-1]:
            raise ShapeError(
                f"{name}: if weight tensor is provided it should have the same shape as the input "
                f"tensor excluding its innermost dimension, but got input with shape "
                f"{list(self.shape)} and weight with shape {list(weight.shape)}"
            )
    return n


def _edges_meta(self: Spec, bins: Sequence[int], range: Any, weight: Any, density: bool) -> Any:
    n = _check_samples(self, weight, len(bins))
    _check_bins("torch.histogram", bins)
    if range is not None:
        if len(range) != 2 * n:
            raise ShapeError(
                f"torch.histogramdd: for a {n}-dimensional histogram range should have {2 * n} "
                f"elements, but got {len(range)}"
            )
    return tuple(Spec.make((b + 1,), self.dtype, self.device) for b in bins)


def _edges(xp: Any, self: Any, bins: Any, range: Any, weight: Any, density: bool) -> Any:
    """Return evenly spaced edges between the extremes of each coordinate."""
    points = self.reshape(-1, self.shape[-1])
    made = []
    for d, n in enumerate(bins):
        low, high = self.dtype.type(0), self.dtype.type(int(range is None))
        if range is not None:
            low, high = (self.dtype.type(x) for x in range[2 * d : 2 * d + 2])
        elif len(points):
            low, high = points[:, d].min(), points[:, d].max()
        if not (xp.isfinite(low) and xp.isfinite(high)):
            raise ShapeError(
                f"torch.histogramdd: dimension {d}'s range [{low:g}, {high:g}] is not finite"
            )
        if low > high:
            raise ShapeError(
                f"torch.histogramdd: min should not exceed max, but got min {low:g} max {high:g} "
                f"for dimension {d}"
            )
        if low == high:
            low, high = low - self.dtype.type(0.5), high + self.dtype.type(0.5)
        step, at = (high - low) / self.dtype.type(n), xp.arange(n + 1)
        up, down = low + at * step, high - (n - at) * step
        made.append(xp.where(at < (n + 1) // 2, up, down).astype(self.dtype))
    return tuple(made)


structured(
    "_histogramdd_bin_edges(Tensor self, int[] bins, *, float[]? range=None, Tensor? weight=None,"
    " bool density=False) -> Tensor[]",
    meta=_edges_meta,
    kernel=_edges,
)


def _counts_meta(self: Spec, bins: Sequence[Spec], weight: Spec | None, density: bool) -> Spec:
    _check_samples(self, weight, len(bins))
    for d, b in enumerate(bins):
        if b.ndim != 1:
            raise ShapeError(
                "torch.histogramdd: bins tensor should have one dimension, but got "
                f"{b.ndim} dimensions in the bins tensor for dimension {d}"
            )
        if b.dtype is not self.dtype:
            raise ShapeError(
                "torch.histogramdd: input tensor and bins tensors should have the same dtype, but "
                f"got input with dtype {self.dtype.c_name} and bins for dimension {d} with dtype "
                f"{b.dtype.c_name}"
            )
    shape = tuple(b.shape[0] - 1 for b in bins)
    _check_bins("torch.histogram", shape)
    return Spec.make(shape, self.dtype, self.device)


def _counts(xp: Any, self: Any, bins: Any, weight: Any, density: bool) -> Any:
    """Count points between edges; the last edge belongs to the last bin."""
    points = self.reshape(-1, self.shape[-1])
    shape = [len(b) - 1 for b in bins]
    inside, flat = xp.ones(len(points), bool), xp.zeros(len(points), "int64")
    for x, edges, n in zip(points.T, bins, shape, strict=True):
        place = xp.searchsorted(edges, x, "right") - 1
        inside &= xp.logical_and(x >= edges[0], x <= edges[-1])
        flat = flat * n + xp.clip(place, 0, n - 1)
    weights = None if weight is None else weight.reshape(-1)[inside]
    counts = xp.bincount(flat[inside], weights, math.prod(shape)).reshape(shape)
    counts = counts.astype(self.dtype)
    if density:
        counts = counts / counts.sum()
        for d, edges in enumerate(bins):
            wide = [-1 if i == d else 1 for i in range(len(bins))]
            counts = counts / xp.diff(edges).reshape(wide)
    return counts


structured(
    "_histogramdd_from_bin_tensors(Tensor self, Tensor[] bins, *, Tensor? weight=None,"
    " bool density=False) -> Tensor",
    meta=_counts_meta,
    kernel=_counts,
)


@composite(
    "_histogramdd_from_bin_cts(Tensor self, int[] bins, *, float[]? range=None,"
    " Tensor? weight=None, bool density=False) -> Tensor"
)
def histogramdd_from_counts(
    self: Any, bins: Any, *, range: Any = None, weight: Any = None, density: bool = False
) -> Any:
    edges = fn._histogramdd_bin_edges(self, bins, range=range, weight=weight)
    return fn._histogramdd_from_bin_tensors(self, list(edges), weight=weight, density=density)


_DD = "float[]? range=None, Tensor? weight=None, bool density=False) -> (Tensor hist, Tensor[]"


def _histogramdd(
    self: Any, bins: Any, range: Any = None, weight: Any = None, density: bool = False
) -> Any:
    ndim = self._spec.shape[-1] if self._spec.shape else 1
    if isinstance(bins, int):
        bins = [bins] * ndim
    if self._spec.ndim > 1 and not (bins and hasattr(bins[0], "_spec")) and len(bins) != ndim:
        raise ShapeError(
            "histogramdd: The size of bins must be equal to the innermost dimension of the input."
        )
    edges = list(bins)
    if not bins or not hasattr(bins[0], "_spec"):
        edges = list(fn._histogramdd_bin_edges(self, bins, range=range, weight=weight))
    hist = fn._histogramdd_from_bin_tensors(self, edges, weight=weight, density=density)
    return hist, tuple(edges)


composite(f"histogramdd(Tensor self, int[] bins, {_DD} bin_edges)")(_histogramdd)
composite(f"histogramdd.int_bins(Tensor self, int bins, {_DD} bin_edges)")(_histogramdd)
composite(f"histogramdd.TensorList_bins(Tensor self, Tensor[] bins, {_DD} bin_edges)")(_histogramdd)


def _histogram(self: Any, edges: Any, weight: Any, density: bool) -> Any:
    points = fn.reshape(self, (-1, 1))
    flat = weight if weight is None else fn.reshape(weight, (-1,))
    return fn._histogramdd_from_bin_tensors(points, [edges], weight=flat, density=density), edges


@composite(
    "histogram.bins_tensor(Tensor self, Tensor bins, *, Tensor? weight=None, bool density=False)"
    " -> (Tensor hist, Tensor bin_edges)"
)
def histogram_edges(self: Any, bins: Any, *, weight: Any = None, density: bool = False) -> Any:
    return _histogram(self, bins, weight, density)


@composite(
    "histogram.bin_ct(Tensor self, int bins=100, *, float[]? range=None, Tensor? weight=None,"
    " bool density=False) -> (Tensor hist, Tensor bin_edges)"
)
def histogram(
    self: Any, bins: int = 100, *, range: Any = None, weight: Any = None, density: bool = False
) -> Any:
    edges = fn._histogramdd_bin_edges(fn.reshape(self, (-1, 1)), (bins,), range=range)[0]
    return _histogram(self, edges, weight, density)


# ------------------------------------------------------------------------------------------ hash --
def _hash_meta(self: Spec, dim: Sequence[int], keepdim: bool, mode: int) -> Spec:
    if mode != 0:
        raise ShapeError(f"Unknown hash_tensor mode: {mode}")
    dims = wrap_dims(dim, self.ndim)
    if not self.numel and not dim:
        raise ShapeError(
            "hash_tensor: Expected reduction dim to be specified for input.numel() == 0. Specify "
            "the reduction dim with the 'dim' argument."
        )
    for d in dims:
        if self.shape and not self.shape[d]:
            raise ValueRangeError(f"hash_tensor: Expected reduction dim {d} to have non-zero size.")
    if self.dtype.is_complex or self.dtype.name in ("uint16", "uint32", "uint64"):
        raise UnsupportedError(f'"xor_sum_cpu" not implemented for {self.dtype.c_name!r}')
    shape = reduced_shape(self.shape, dims, keepdim)
    return self.with_(shape=shape, stride=None, dtype=uint64)


def _hash(xp: Any, self: Any, dim: Sequence[int], keepdim: bool, mode: int) -> Any:
    """The exclusive or of the bits of all elements, taken as float64 or int64."""
    wide = xp.asarray(self, dtype=xp.float64 if self.dtype.kind == "f" else xp.int64)
    bits = wide.reshape(self.shape).view(xp.uint64)
    return xp.bitwise_xor.reduce(bits, axis=wrap_dims(dim, self.ndim), keepdims=keepdim)


structured(
    "hash_tensor(Tensor self, int[1] dim=[], *, bool keepdim=False, int mode=0) -> Tensor",
    meta=_hash_meta,
    kernel=_hash,
)
