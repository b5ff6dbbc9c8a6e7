"""The Box-Muller transform of torch's CPU kernels, to the bit: uniform draws to normal numbers.

float32 keeps the rounding of torch's AVX2 kernel (Cephes single-precision polynomials, fused
multiply-add), because ``numpy.log`` and ``numpy.cos`` round otherwise and differ between CPUs; here
are only additions, products and casts, which are the same everywhere. Holds no state.
Read next: ``random.py``, which draws the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

TAU = 2.0 * math.pi

# Cephes logf and sinf/cosf (S. Moshier, public domain), highest power first.
_LOG_POLYNOMIAL = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
_SIN_POLYNOMIAL = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COS_POLYNOMIAL = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
_PI_4_PARTS = (0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8)


def _f32(value: float) -> float:
    """Return the float32 nearest to value, as a Python float."""
    return float(np.float32(value))


_LN2_HI, _LN2_LO = _f32(0.693359375), _f32(-2.12194440e-4)
_SQRT_HALF = _f32(0.707106781186547524)
_FOUR_OVER_PI = _f32(1.27323954473516)


def elementwise_libm(function: Callable[[float], float], x: F64) -> F64:
    """Return function of each element by the C library: the bits of torch's scalar loops.

    numpy's vectorised log, log1p and exp differ from the C library in the last bit in about one
    value of 300; its float64 sin and cos are the C library's. A domain or range error (log of 0,
    exp of 1000) falls back to numpy's result.
    """
    try:
        flat = np.fromiter(map(function, x.ravel().tolist()), np.float64, x.size)
    except (ValueError, OverflowError):
        with np.errstate(all="ignore"):
            return np.asarray(getattr(np, function.__name__)(x), np.float64)
    return flat.reshape(x.shape)


def _round32(x: F64) -> F64:
    """Return x rounded to float32 precision, still stored as float64."""
    return x.astype(np.float32).astype(np.float64)


def _fma32(a: F64, b: F64 | float, c: F64 | float) -> F64:
    """Return the float32 fused a * b + c; a, b, c hold float32 values stored as float64.

    The product is exact in float64. The sum is rounded twice, which differs from a true fused
    multiply-add about once in 2**29 results.
    """
    product = a * b
    product += c
    return _round32(product)


def fma64(a: F64, b: float, c: float) -> F64:
    """Return the float64 fused a * b + c, by Dekker's product and Knuth's sum."""
    splitter = 134217729.0  # 2**27 + 1
    a_hi = a * splitter - (a * splitter - a)
    b_hi = b * splitter - (b * splitter - b)
    a_lo, b_lo = a - a_hi, b - b_hi
    product = a * b
    product_error = ((a_hi * b_hi - product) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo
    total = product + c
    shadow = total - product
    total_error = (product - (total - shadow)) + (c - shadow)
    return np.asarray(total + (total_error + product_error), np.float64)


def _log32(x: F32) -> F64:
    """Return the natural logarithm of positive normal float32 numbers, as Cephes' logf does."""
    bits = x.view(np.int32)
    exponent = ((bits >> 23) - 126).astype(np.float64)
    fraction = ((bits & 0x007FFFFF) | 0x3F000000).view(np.float32).astype(np.float64)
    small = fraction < _SQRT_HALF
    exponent -= small
    f = np.where(small, fraction + fraction, fraction) - 1.0
    square = _round32(f * f)
    y = np.full_like(f, _f32(_LOG_POLYNOMIAL[0]))
    for coefficient in _LOG_POLYNOMIAL[1:]:
        y = _fma32(y, f, _f32(coefficient))
    y = _round32(y * f)
    y = _fma32(y, square, _round32(exponent * _LN2_LO))
    y = _fma32(square, -0.5, y)
    return _fma32(exponent, _LN2_HI, _round32(f + y))


def _sincos32(x: F64) -> tuple[F64, F64]:
    """Return sine and cosine of float32 angles in [0, 2 pi], as Cephes' sinf and cosf do."""
    octant = (_round32(x * _FOUR_OVER_PI).astype(np.int32) + 1) & ~1
    steps = octant.astype(np.float64)
    for part in _PI_4_PARTS:
        x = _fma32(steps, -_f32(part), x)
    square = _round32(x * x)

    cosine = _fma32(square, _f32(_COS_POLYNOMIAL[0]), _f32(_COS_POLYNOMIAL[1]))
    cosine = _fma32(cosine, square, _f32(_COS_POLYNOMIAL[2]))
    cosine = _round32(cosine * square)
    cosine = _fma32(cosine, square, square * -0.5)
    cosine = _round32(cosine + 1.0)

    sine = _fma32(square, _f32(_SIN_POLYNOMIAL[0]), _f32(_SIN_POLYNOMIAL[1]))
    sine = _fma32(sine, square, _f32(_SIN_POLYNOMIAL[2]))
    sine = _round32(sine * square)
    sine = _fma32(sine, x, x)

    swapped = (octant & 2) != 0  # the angle is nearer to an odd multiple of pi / 2
    sine_sign = 1.0 - 0.5 * (octant & 4)
    cosine_sign = 1.0 - 0.5 * (~(octant - 2) & 4)
    return (
        np.where(swapped, cosine, sine) * sine_sign,
        np.where(swapped, sine, cosine) * cosine_sign,
    )


def box_muller_32(uniforms: F32, mean: float, std: float) -> F32:
    """Return float32 normal numbers from blocks of 16 uniforms in [0, 1).

    uniforms: (blocks, 16); in each block the first 8 give the radii, the last 8 the angles.
    Result: (blocks, 16), cosines first. mean and std are rounded to float32.
    """
    out = np.empty_like(uniforms)
    log = _log32(np.float32(1.0) - uniforms[:, :8])
    radius = np.sqrt((-2.0 * log).astype(np.float32)).astype(np.float64)
    theta = uniforms[:, 8:] * np.float32(TAU)
    sine, cosine = _sincos32(theta.astype(np.float64))
    mean, std = _f32(mean), _f32(std)
    for half, wave in ((out[:, :8], cosine), (out[:, 8:], sine)):
        product = _round32(radius * wave)
        product *= std
        product += mean
        half[...] = product
    return out


def box_muller_64(uniforms: F64, mean: float, std: float) -> F64:
    """Return float64 normal numbers from blocks of 16 uniforms; see ``box_muller_32``."""
    radius = np.sqrt(-2.0 * elementwise_libm(math.log, 1.0 - uniforms[:, :8]))
    theta = TAU * uniforms[:, 8:]
    normals = np.concatenate([radius * np.cos(theta), radius * np.sin(theta)], axis=1)
    if mean == 0.0:
        return np.asarray(normals * std + 0.0, np.float64)
    return fma64(normals, std, mean)
