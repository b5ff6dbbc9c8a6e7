"""Factories of windows, `hann_window` and kin: smooth bumps to weigh the samples of a frame by.

A periodic window of n is a symmetric one of n + 1 without its last value. All formulas are in
Oppenheim and Schafer, "Discrete-Time Signal Processing", section 7.2, but for Kaiser's I0, 7.59.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..dtype import Defaults, DType
from ..errors import ShapeError, UnsupportedError
from ..family import creation, factory_spec
from ..spec import Spec
from .create import OPTIONS


def _bartlett(xp: Any, at: Any) -> Any:
    return 1 - xp.abs(2 * at - 1)


def _blackman(xp: Any, at: Any) -> Any:
    angle = 2 * math.pi * at
    return 0.42 - 0.5 * xp.cos(angle) + 0.08 * xp.cos(2 * angle)


def _hann(xp: Any, at: Any) -> Any:
    return _hamming(xp, at, 0.5, 0.5)


def _hamming(xp: Any, at: Any, alpha: float = 0.54, beta: float = 0.46) -> Any:
    return alpha - beta * xp.cos(2 * math.pi * at)


def _kaiser(xp: Any, at: Any, beta: float = 12.0) -> Any:
    root = xp.sqrt(xp.maximum(0, 1 - (2 * at - 1) ** 2))
    from ..bessel import bessel_i  # clients never need it

    return bessel_i(xp, 0, False, beta * root) / bessel_i(xp, 0, False, xp.asarray(float(beta)))


def _declare(
    name: str, overload: str, more: str, shape: Callable[..., Any], parameters: int
) -> None:
    """Add one overload; `parameters` is how many numbers it has after `periodic`."""
    numbers = 0 if not more else 1 + parameters

    def meta(window_length: int, *rest: Any) -> Spec:
        dtype, _layout, device, _pin = rest[numbers:]
        dtype = dtype or Defaults.dtype
        if dtype.category < 2:
            raise ShapeError(f"{name} expects floating point dtypes, got: {dtype!r}")
        if window_length < 0:
            raise ShapeError(
                f"{name} requires non-negative window_length, got window_length={window_length}"
            )
        if dtype.is_complex and window_length > 1:
            raise UnsupportedError(f"\"{name}\" not implemented for '{dtype.c_name}'")
        return factory_spec((window_length,), dtype, device)

    def kernel(xp: Any, window_length: int, *rest: Any) -> Any:
        dtype: DType = rest[numbers] or Defaults.dtype
        work = xp.float64 if not dtype.is_reduced else xp.float32
        if window_length <= 1:
            return xp.ones(window_length, work)
        periodic = rest[0] if numbers else True
        steps = window_length if periodic else window_length - 1
        return shape(xp, xp.arange(window_length) / steps, *rest[1:numbers]).astype(work)

    creation(
        f"{name}{overload}(int window_length, {more}*, {OPTIONS}) -> Tensor",
        meta=meta,
        kernel=kernel,
    )


_PERIODIC = "bool periodic, "
for _name, _shape in {
    "bartlett_window": _bartlett,
    "blackman_window": _blackman,
    "hamming_window": _hamming,
    "hann_window": _hann,
    "kaiser_window": _kaiser,
}.items():
    _declare(_name, "", "", _shape, 0)
    _declare(_name, ".periodic", _PERIODIC, _shape, 0)
_declare("hamming_window", ".periodic_alpha", _PERIODIC + "float alpha, ", _hamming, 1)
_declare(
    "hamming_window", ".periodic_alpha_beta", _PERIODIC + "float alpha, float beta, ", _hamming, 2
)
_declare("kaiser_window", ".beta", _PERIODIC + "float beta, ", _kaiser, 1)
