"""farspan.signal.windows: windows to weigh samples by, under torch.signal.windows' names.

Each returns a tensor of M values, float32 or float64, without waiting. `sym=False` gives the
periodic window: of M + 1 values all but the last. ValueError for a negative M and other dtypes.
Formulas: Harris, "On the use of windows for harmonic analysis", Proc. IEEE 66 (1978).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .._creation import strided, tensor
from .._functions import factory
from ..core.call import fn
from ..core.dtype import Defaults, DType, float32, float64
from ..core.errors import ArgumentError, BadValueError

if TYPE_CHECKING:
    from .._tensor import Tensor

__all__ = [
    "bartlett", "blackman", "cosine", "exponential", "gaussian", "general_cosine",
    "general_hamming", "hamming", "hann", "kaiser", "nuttall",
]  # fmt: skip


def bartlett(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """Return a triangle from 0 to 1 to 0.

    >>> from farspan.signal import windows
    >>> windows.bartlett(5)
    tensor([0.0000, 0.5000, 1.0000, 0.5000, 0.0000])
    """
    _check("bartlett", M, options)
    if M <= 1:
        return _ones(M, options)
    step = 2 / (M - sym)
    return fn.rsub(fn.abs(_steps(-1, -1 + (M - 1) * step, M, options)), 1)  # type: ignore[no-any-return]


def blackman(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """Return 0.42 - 0.5 cos x + 0.08 cos 2x, x over one turn."""
    _check("blackman", M, options)
    return general_cosine(M, a=[0.42, 0.5, 0.08], sym=sym, **options)


def cosine(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """Return half a turn of a sine, at the middles of M equal parts."""
    _check("cosine", M, options)
    if not M:
        return _ones(M, options)
    step = math.pi / (M if sym or M == 1 else M + 1)
    return fn.sin(_steps(0.5 * step, (M - 0.5) * step, M, options))  # type: ignore[no-any-return]


def exponential(
    M: int, *, center: float | None = None, tau: float = 1.0, sym: bool = True, **options: Any
) -> Tensor:
    """Return exp(-|n - center| / tau); the center, in samples, is the middle by default."""
    _check("exponential", M, options)
    if tau <= 0:
        raise BadValueError(f"Tau must be positive, got: {tau} instead.")
    if sym and center is not None:
        raise BadValueError("Center must be None for symmetric windows")
    if not M:
        return _ones(M, options)
    middle = _middle(M, sym) if center is None else center
    steps = _steps(-middle / tau, (M - 1 - middle) / tau, M, options)
    return fn.exp(fn.neg(fn.abs(steps)))  # type: ignore[no-any-return]


def gaussian(M: int, *, std: float = 1.0, sym: bool = True, **options: Any) -> Tensor:
    """Return exp(-(n - middle)^2 / (2 std^2)); std in samples."""
    _check("gaussian", M, options)
    if std <= 0:
        raise BadValueError(f"Standard deviation must be positive, got: {std} instead.")
    if not M:
        return _ones(M, options)
    middle, width = _middle(M, sym), std * math.sqrt(2)
    steps = _steps(-middle / width, (M - 1 - middle) / width, M, options)
    return fn.exp(fn.neg(fn.square(steps)))  # type: ignore[no-any-return]


def kaiser(M: int, *, beta: float = 12.0, sym: bool = True, **options: Any) -> Tensor:
    """Return I0(beta sqrt(1 - x^2)) / I0(beta), x from -1 to 1."""
    _check("kaiser", M, options)
    if beta < 0:
        raise BadValueError(f"beta must be non-negative, got: {beta} instead.")
    if M <= 1:
        return _ones(M, options)
    end = min(beta, -beta + (M - 1) * (2 * beta / (M - sym)))
    steps = _steps(-beta, end, M, options)
    top = fn.i0(fn.full((), beta, dtype=steps.dtype, device=steps.device))
    inside = fn.clamp_min(fn.rsub(fn.square(steps), beta * beta), 0)
    return fn.div(fn.i0(fn.sqrt(inside)), top)  # type: ignore[no-any-return]


def general_cosine(M: int, *, a: Iterable[float], sym: bool = True, **options: Any) -> Tensor:
    """Return a[0] - a[1] cos x + a[2] cos 2x - ..., x over one turn."""
    _check("general_cosine", M, options)
    if M <= 1:
        return _ones(M, options)
    if not isinstance(a, Iterable):
        raise ArgumentError("Coefficients must be a list/tuple")
    if not a:
        raise BadValueError("Coefficients cannot be empty")
    needs = options.get("requires_grad", False)
    x = _steps(0, (M - 1) * (2 * math.pi / (M - sym)), M, options)
    signed = [(-1) ** i * w for i, w in enumerate(a)]
    weights = tensor(signed, dtype=x.dtype, device=x.device, requires_grad=needs)
    orders = fn.arange(len(signed), dtype=x.dtype, device=x.device)
    waves = fn.cos(fn.mul(fn.unsqueeze(orders, -1), x))
    return fn.sum(fn.mul(fn.unsqueeze(weights, -1), waves), 0)  # type: ignore[no-any-return]


def general_hamming(M: int, *, alpha: float = 0.54, sym: bool = True, **options: Any) -> Tensor:
    """Return alpha - (1 - alpha) cos x, x over one turn."""
    return general_cosine(M, a=[alpha, 1.0 - alpha], sym=sym, **options)


def hamming(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """Return 0.54 - 0.46 cos x, x over one turn."""
    return general_hamming(M, sym=sym, **options)


def hann(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """Return (1 - cos x) / 2, x over one turn."""
    return general_hamming(M, alpha=0.5, sym=sym, **options)


def nuttall(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """Return the sum of four cosines whose side lobes are lowest (Nuttall's 4-term window)."""
    return general_cosine(M, a=[0.3635819, 0.4891775, 0.1365995, 0.0106411], sym=sym, **options)


# ---------------------------------------------------------------------------------------- shared --
_OPTIONS = ("dtype", "layout", "device", "requires_grad")


def _check(name: str, M: int, options: dict[str, Any]) -> None:
    """Raise for options that torch refuses; fill in the default dtype."""
    for key in options:
        if key not in _OPTIONS:
            raise ArgumentError(f"{name}() got an unexpected keyword argument '{key}'")
    dtype: DType = options.get("dtype") or Defaults.dtype
    layout = options.get("layout", strided)
    if M < 0:
        raise BadValueError(f"{name} requires non-negative window length, got M={M}")
    if layout is not strided:
        raise BadValueError(f"{name} is implemented for strided tensors only, got: {layout}")
    if dtype not in (float32, float64):
        raise BadValueError(f"{name} expects float32 or float64 dtypes, got: {dtype}")
    options["dtype"] = dtype


def _ones(M: int, options: dict[str, Any]) -> Tensor:
    return factory("ones")((M,), **options)


def _steps(start: float, end: float, M: int, options: dict[str, Any]) -> Any:
    return factory("linspace")(start, end, M, **options)


def _middle(M: int, sym: bool) -> float:
    return (M - 1 if sym or M == 1 else M) / 2
