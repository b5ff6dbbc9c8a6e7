"""Images resized: nearest, linear and cubic, with corners aligned or not, with antialiasing or not.

Every mode is a linear map along each dim on its own: an element of the result is a weighted sum of
a few elements of the input, its taps. The gradient is the transposed map, brought to the same form,
so one kernel does both, and each is the other's derivative. Positions as in ATen/UpSample.h.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ..call import fn
from ..errors import ParameterError, ShapeError
from ..family import mentioning, only, refuse, structured
from ..spec import Spec

Ints = tuple[int, ...]
Scales = tuple[float | None, ...]
#: (indices, weights), each (length of the result, taps); weights None: one tap, taken as it is
Taps = tuple[Any, Any]
#: Taps, and what a few elements have beyond them: (element, indices, weights) of each.
Map = tuple[Any, Any, list[tuple[int, Any, Any]]]


# ----------------------------------------------------------------------------------------- taps --
def _ratio(n: int, m: int, aligned: bool, scale: float | None, real: Any) -> Any:
    """Return how far one step in the result is in the input, rounded as torch's type does."""
    if aligned:
        return real(n - 1) / real(m - 1) if m > 1 else real(0)
    if scale is not None and scale > 0:
        return real(1.0 / scale)
    return real(n) / real(m)


def _nearest(n: int, m: int, aligned: bool, scale: float | None, real: Any) -> Taps:
    ratio = _ratio(n, m, False, scale, np.float32)
    at = np.floor(np.arange(m, dtype=np.float32) * ratio)
    return np.minimum(at, n - 1).astype(np.int64)[:, None], None


def _nearest_exact(n: int, m: int, aligned: bool, scale: float | None, real: Any) -> Taps:
    ratio = _ratio(n, m, False, scale, np.float32)
    at = np.floor((np.arange(m, dtype=np.float32) + np.float32(0.5)) * ratio)
    return np.minimum(at, n - 1).astype(np.int64)[:, None], None


def _sources(n: int, m: int, aligned: bool, scale: float | None, real: Any) -> Any:
    """Return the real-valued places in the input of the elements of the result."""
    ratio = _ratio(n, m, aligned, scale, real)
    at = np.arange(m, dtype=real)
    return at * ratio if aligned else (at + real(0.5)) * ratio - real(0.5)


def _linear(n: int, m: int, aligned: bool, scale: float | None, real: Any) -> Taps:
    if n == m:
        return np.arange(n)[:, None], None
    at = np.maximum(_sources(n, m, aligned, scale, real), 0)
    low = np.minimum(at.astype(np.int64), n - 1)
    share = np.clip(at - low, 0, 1).astype(real)
    indices = np.stack([low, np.minimum(low + 1, n - 1)], 1)
    return indices, np.stack([1 - share, share], 1)


def _cubic_weight(x: Any, a: float) -> Any:
    """Return Keys' kernel at distances x: "Cubic convolution interpolation" (1981), eq. 15."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def _cubic(n: int, m: int, aligned: bool, scale: float | None, real: Any) -> Taps:
    at = _sources(n, m, aligned, scale, real)
    low = np.floor(at)
    steps = np.arange(-1, 3)
    weights = _cubic_weight((at - low)[:, None] - steps, -0.75).astype(real)
    indices = np.clip(low.astype(np.int64)[:, None] + steps, 0, n - 1)
    return indices, weights


def _smooth(
    n: int, m: int, aligned: bool, scale: float | None, real: Any, size: float,
    weight: Callable[[Any], Any],
) -> Taps:  # fmt: skip
    """Return taps of a filter of `size` input elements, widened where the input is finer."""
    ratio = _ratio(n, m, aligned, scale, real)
    wide = max(ratio, real(1.0))
    support = real(size / 2) * wide
    centre = ratio * (np.arange(m, dtype=real) + real(0.5))
    first = np.maximum((centre - support + real(0.5)).astype(np.int64), 0)
    last = np.minimum((centre + support + real(0.5)).astype(np.int64), n)
    indices = first[:, None] + np.arange(max(int((last - first).max()), 1))
    weights = weight((indices - centre[:, None] + real(0.5)) / wide)
    inside = indices < last[:, None]
    weights = np.where(inside, weights, 0)
    total = weights.sum(1, keepdims=True)
    weights = weights / np.where(total == 0, 1, total)
    # A tap without weight lies where its row's first does: elsewhere it would bring NaN from there.
    beside = np.minimum(first, n - 1)[:, None]
    return np.where(inside, indices, beside), weights.astype(real)


def _linear_smooth(n: int, m: int, aligned: bool, scale: float | None, real: Any) -> Taps:
    return _smooth(n, m, aligned, scale, real, 2, lambda x: np.maximum(1 - np.abs(x), 0))


def _cubic_smooth(n: int, m: int, aligned: bool, scale: float | None, real: Any) -> Taps:
    return _smooth(n, m, aligned, scale, real, 4, lambda x: _cubic_weight(x, -0.5))


def _lanczos_smooth(n: int, m: int, aligned: bool, scale: float | None, real: Any) -> Taps:
    return _smooth(
        n, m, aligned, scale, real, 6,
        lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0),
    )  # fmt: skip


_MODES: dict[str, Callable[..., Taps]] = {
    "nearest": _nearest,
    "nearest_exact": _nearest_exact,
    "linear": _linear,
    "cubic": _cubic,
    "linear_smooth": _linear_smooth,
    "cubic_smooth": _cubic_smooth,
    "lanczos_smooth": _lanczos_smooth,
}


_WIDE = {"nearest": 1, "nearest_exact": 1, "linear": 2, "cubic": 4}
_SUPPORT = {"linear_smooth": 2, "cubic_smooth": 4, "lanczos_smooth": 6}


def width(mode: str, n: int, m: int, aligned: bool, scale: float | None) -> int:
    """Return how many of n elements make one of m, at most."""
    if mode in _WIDE:
        return _WIDE[mode]
    ratio = float(_ratio(n, m, aligned, scale, np.float64))
    return int(min(n, _SUPPORT[mode] * max(ratio, 1.0) + 2))


_KEPT = 1 << 14  # taps: the map of more is made each time, and goes with its command


def _map(*which: Any) -> Map:
    """Return the map from n to m elements, or its transpose; as `_make_map` has it."""
    _, n, m, *_ = which
    small = n + m * width(*which[:5]) <= _KEPT
    return _kept_map(*which) if small else _make_map(*which)


def _make_map(
    mode: str, n: int, m: int, aligned: bool, scale: float | None, real: Any, backward: bool
) -> Map:
    """Return the map from n to m elements, or its transpose from m to n. real: the weights' type.

    real None: they are fixed-point numbers, as torch's are for uint8.
    """
    if real is None:
        return *_byte_taps(mode, n, m, aligned, scale), []
    indices, weights = _MODES[mode](n, m, aligned, scale, real)
    return _transposed(indices, weights, n, real) if backward else (indices, weights, [])


_kept_map = functools.lru_cache(maxsize=64)(_make_map)


def _byte_taps(mode: str, n: int, m: int, aligned: bool, scale: float | None) -> Taps:
    """Return taps for uint8: weights are fixed-point numbers of 15 bits, as torch's are."""
    indices, weights = _MODES[mode](n, m, aligned, scale, np.float64)
    if weights is None:
        return indices, None
    for k in range(1, indices.shape[1]):  # what is beyond the edge counts for the edge, as one tap
        twice = indices[:, k] == indices[:, k - 1]
        weights[twice, k] += weights[twice, k - 1]
        weights[twice, k - 1] = 0
    bits = next((b for b in range(22) if int(0.5 + weights.max() * 2 ** (b + 1)) >= 2**15), 22)
    scaled = weights * 2**bits
    return indices, np.trunc(scaled + np.copysign(0.5, scaled)) / 2**bits


def _transposed(indices: Any, weights: Any, n: int, real: Any) -> Map:
    """Return the transposed map: for each input element the results that use it.

    Where one is used by many times as many as most are (a scale that does not go with the sizes
    takes all of a result from one element), it stands apart: taps for it would be taps for all.
    """
    if weights is None:
        weights = np.ones(indices.shape, real)
    m, taps = indices.shape
    source = indices.reshape(-1)
    order = np.argsort(source, kind="stable")
    counts = np.bincount(source, minlength=n)
    many = 4 * -(-source.size // n) + 4
    most = max(int(counts[counts <= many].max(initial=0)), 1)
    rank = np.arange(source.size) - np.repeat(np.cumsum(counts) - counts, counts)
    results, shares = np.repeat(np.arange(m), taps)[order], weights.reshape(-1)[order]
    ends = np.cumsum(counts)
    apart = [
        (int(i), results[ends[i] - counts[i] : ends[i]], shares[ends[i] - counts[i] : ends[i]])
        for i in np.flatnonzero(counts > many)
    ]
    usual = rank < most
    usual &= np.repeat(counts <= many, counts)
    there = (source[order][usual], rank[usual])
    back = np.zeros((n, most), np.int64)
    share = np.zeros((n, most), real)
    back[there] = results[usual]
    share[there] = shares[usual]
    return back, share, apart


def _mapped(xp: Any, x: Any, axis: int, indices: Any, weights: Any, apart: Any) -> Any:
    """Return x with its elements along an axis replaced by weighted sums of their taps."""
    if weights is None:
        return xp.take(x, indices[:, 0], axis=axis)
    shape = [1] * x.ndim
    shape[axis] = -1
    total: Any = None
    for k in range(indices.shape[1]):
        part = xp.take(x, indices[:, k], axis=axis)
        part *= weights[:, k].astype(x.dtype).reshape(shape)
        if total is None:
            total = part
        else:
            total += part
    for i, at, shares in apart:
        part = xp.take(x, at, axis=axis)
        part *= shares.astype(x.dtype).reshape(shape)
        total[(slice(None),) * axis + (i,)] += part.sum(axis)
    return total


def _is_vectorized(x: Any, given: Ints) -> bool:
    """Return whether torch resizes to the nearest by its vectorized kernel."""
    n = len(given)
    if n == 2 and sum(given) <= 128:
        return True
    last = x.transpose(0, *range(2, n + 2), 1)
    return n > 1 and x.shape[1] > 3 and bool(last.flags.c_contiguous)


def _passes(
    x: Any, mode: str, sizes: Ints, given: Ints, scales: Scales, backward: bool
) -> tuple[list[int], Scales]:
    """Return the dims that are resized, counted among the image's, and the scales that hold.

    torch takes some sizes as they are, whatever the scale: n and 2n of n to the nearest, by the
    vectorized kernel and in all gradients; n of n in filters; all of them in a cubic gradient
    (ATen/native/cpu/UpSampleKernel.cpp).
    """
    dims = range(len(sizes))
    if mode == "nearest" and (backward or _is_vectorized(x, given)):
        scales = tuple(None if given[i] in (sizes[i], 2 * sizes[i]) else scales[i] for i in dims)
    if mode in _SUPPORT and not backward:
        return [i for i in dims if sizes[i] != given[i]], scales
    return [] if mode == "cubic" and backward and sizes == given else list(dims), scales


def _resized(
    xp: Any, x: Any, mode: str, sizes: Ints, given: Ints, aligned: bool, scales: Scales,
    backward: bool,
) -> Any:  # fmt: skip
    """Map images along all dims. sizes: of the small or large input; given: of the result."""
    n = len(sizes)
    if x.dtype.kind == "u" and not mode.startswith("nearest"):
        return _resized_bytes(xp, x, mode, sizes, given, aligned, scales)
    dims, scales = _passes(x, mode, sizes, given, scales, backward)
    real = np.float32 if x.dtype.kind in "iu" else x.dtype.type
    before, after = (given, sizes) if backward else (sizes, given)
    # What shrinks the most comes first, so that less is left for the others.
    for i in sorted(dims, key=lambda i: after[i] / before[i]):
        taps = _map(mode, sizes[i], given[i], aligned, scales[i], real, backward)
        x = _mapped(xp, x, x.ndim - n + i, *taps)
    return x if dims else x.copy()


def _resized_bytes(
    xp: Any, x: Any, mode: str, sizes: Ints, given: Ints, aligned: bool, scales: Scales
) -> Any:
    """Map images of uint8, rounded after each pass, rows first."""
    x = x.astype("float64")
    for i in reversed(range(len(sizes))):
        if sizes[i] != given[i]:
            taps = _map(mode, sizes[i], given[i], aligned, scales[i], None, False)
            x = _mapped(xp, x, x.ndim - len(sizes) + i, *taps)
            x = xp.clip(xp.floor(x + 0.5), 0, 255)
    return x


# ----------------------------------------------------------------------------------- declaration --
def _check(name: str, size: Ints, out: Ints, n: int) -> None:
    """Raise unless images of (N, C, *size) can be resized to `out`."""
    if len(out) != n:
        raise ShapeError(f"It is expected output_size equals to {n}, but got size {len(out)}")
    if len(size) != n + 2:
        raise ShapeError(f"It is expected input_size equals to {n + 2}, but got size {len(size)}")
    if min(*size[2:], *out) <= 0:
        raise ShapeError(
            "Input and output sizes should be greater than 0, but got input "
            f"({', '.join(map(str, size[2:]))}) and output ({', '.join(map(str, out))})"
        )


def _meta(name: str, n: int, refused: str) -> Callable[..., Spec]:
    def meta(self: Spec, output_size: Ints, *rest: Any) -> Spec:
        _check(name, self.shape, output_size, n)
        if self.ndim == n + 2 and 0 in self.shape[1:]:
            raise ShapeError(
                f"Non-empty {n + 2}D data tensor expected but got a tensor with sizes "
                f"{list(self.shape)}"
            )
        refuse(name, self.dtype, refused)
        if self.dtype.category == 1 and self.dtype.name != "uint8":
            refuse(name, self.dtype, "i")
        if name.endswith("_aa"):
            only("compute_index_ranges_weights", self.dtype, "float32 float64 uint8")
        if self.ndim != n + 2:
            raise ShapeError(f"{name}: expected {n + 2}D input, got {self.ndim}D")
        if n == 1:
            return self.with_(shape=(*self.shape[:2], *output_size))
        return self.as_images((*self.shape[:2], *output_size))

    return meta


def _backward_meta(n: int) -> Callable[..., Spec]:
    def meta(grad_output: Spec, output_size: Ints, input_size: Ints, *rest: Any) -> Spec:
        wanted = (*input_size[:2], *output_size)
        if grad_output.shape != wanted:
            raise ParameterError(
                f"Expected grad_output to have the shape {list(wanted)}, but got "
                f"{list(grad_output.shape)}"
            )
        if n == 1:
            return grad_output.with_(shape=tuple(input_size))
        return grad_output.as_images(tuple(input_size))

    return meta


_SCALES = {
    1: "float? scales=None",
    2: "float? scales_h=None, float? scales_w=None",
    3: "float? scales_d=None, float? scales_h=None, float? scales_w=None",
}


#: By the name of an op, forward or backward: its mode.
MODES: dict[str, str] = {}


def _declare(name: str, n: int, mode: str, refused: str = "bc") -> None:
    """Declare one resizing and its backward; the formulas pass all further arguments on."""
    MODES[name] = MODES[f"{name}_backward"] = mode
    widens = mode in _SUPPORT  # by the scale: it tells how much memory the taps take
    corners = "" if mode.startswith("nearest") else " bool align_corners,"

    def split(rest: tuple[Any, ...]) -> tuple[bool, Scales]:
        return (bool(rest[0]), rest[1:]) if corners else (False, rest)

    def kernel(xp: Any, self: Any, output_size: Ints, *rest: Any) -> Any:
        aligned, scales = split(rest)
        return _resized(xp, self, mode, self.shape[2:], output_size, aligned, scales, False)

    def backward(xp: Any, grad_output: Any, output_size: Ints, input_size: Ints, *rest: Any) -> Any:
        aligned, scales = split(rest)
        return _resized(
            xp, grad_output, mode, tuple(input_size[2:]), output_size, aligned, scales, True
        )

    grad, again = _formulas(name, n, bool(corners))
    structured(
        f"{name}(Tensor self, SymInt[{n}] output_size,{corners} {_SCALES[n]}) -> Tensor",
        meta=_meta(name, n, refused),
        kernel=kernel,
        vjp={"self": grad},
        by_value=widens,
    )
    structured(
        f"{name}_backward(Tensor grad_output, SymInt[{n}] output_size, SymInt[{n + 2}] input_size,"
        f"{corners} {_SCALES[n]}) -> Tensor",
        meta=_backward_meta(n),
        kernel=backward,
        vjp={"grad_output": again},
        by_value=widens,
    )


def _formulas(name: str, n: int, corners: bool) -> tuple[Any, Any]:
    """Return the two derivatives, with parameters named as the schema names them."""
    scales = tuple(re.findall(r"scales\w*", _SCALES[n]))
    extra = (*(("align_corners",) if corners else ()), *scales)
    grad = mentioning(
        ("g", "self_spec", "output_size", *extra),
        lambda g, spec, out, *rest: getattr(fn, f"{name}_backward")(g, out, spec.shape, *rest),
    )
    again = mentioning(
        ("g", "output_size", *extra), lambda g, out, *rest: getattr(fn, name)(g, out, *rest)
    )
    return grad, again


for _form in ("nearest", "nearest_exact"):
    for _n in (1, 2, 3):
        _declare(f"{'_' if _form != 'nearest' else ''}upsample_{_form}{_n}d", _n, _form)
_declare("upsample_linear1d", 1, "linear", "bic")
_declare("upsample_bilinear2d", 2, "linear")
_declare("upsample_trilinear3d", 3, "linear", "bic")
_declare("upsample_bicubic2d", 2, "cubic")
_declare("_upsample_bilinear2d_aa", 2, "linear_smooth")
_declare("_upsample_bicubic2d_aa", 2, "cubic_smooth")
_declare("_upsample_lanczos2d_aa", 2, "lanczos_smooth")
