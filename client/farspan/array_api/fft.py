"""The Fourier extension: the standard's names over `farspan.fft`. Nothing waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.call import fn
from ..core.dtype import Defaults
from ._array import Array, array_of, own

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..core.dtype import DType

_ONE_AXIS = {
    "fft": "the Fourier transform",
    "ifft": "the inverse Fourier transform",
    "rfft": "the non-negative half of the Fourier transform of real numbers",
    "irfft": "the real inverse of `rfft`",
    "hfft": "the real Fourier transform of the non-negative half of a Hermitian signal",
    "ihfft": "the inverse of `hfft`",
}
_MANY_AXES = {
    "fftn": "the Fourier transform",
    "ifftn": "the inverse Fourier transform",
    "rfftn": "the half of the Fourier transform of real numbers that determines it",
    "irfftn": "the real inverse of `rfftn`",
}

__all__ = ["fftfreq", "fftshift", "ifftshift", "rfftfreq", *_ONE_AXIS, *_MANY_AXES]


def _one_axis(name: str, what: str) -> Callable[..., Array]:
    function = getattr(fn, f"fft_{name}")

    def transform(
        x: Array, /, *, n: int | None = None, axis: int = -1, norm: str = "backward"
    ) -> Array:
        return function(own(x), n, axis, norm)

    transform.__name__ = transform.__qualname__ = name
    transform.__doc__ = f"Return {what}, along an axis cut or padded to n elements."
    return transform


def _many_axes(name: str, what: str) -> Callable[..., Array]:
    function = getattr(fn, f"fft_{name}")

    def transform(
        x: Array,
        /,
        *,
        s: Sequence[int] | None = None,
        axes: Sequence[int] | None = None,
        norm: str = "backward",
    ) -> Array:
        s = None if s is None else tuple(s)
        return function(own(x), s, None if axes is None else tuple(axes), norm)

    transform.__name__ = transform.__qualname__ = name
    transform.__doc__ = f"Return {what}, along axes cut or padded to s elements; by default all."
    return transform


for _name, _what in _ONE_AXIS.items():
    globals()[_name] = _one_axis(_name, _what)
for _name, _what in _MANY_AXES.items():
    globals()[_name] = _many_axes(_name, _what)


def fftfreq(
    n: int, /, *, d: float = 1.0, dtype: DType | None = None, device: Any | None = None
) -> Array:
    """Return the frequencies, in cycles per unit of d, of the n elements of `fft`."""
    return _frequencies("fftfreq", n, d, dtype, device)


def rfftfreq(
    n: int, /, *, d: float = 1.0, dtype: DType | None = None, device: Any | None = None
) -> Array:
    """Return the frequencies, in cycles per unit of d, of the n // 2 + 1 elements of `rfft`."""
    return _frequencies("rfftfreq", n, d, dtype, device)


def _frequencies(name: str, n: int, d: float, dtype: DType | None, device: Any) -> Array:
    from ._creation import _placed

    make = getattr(fn, f"fft_{name}")
    return array_of(make(n, d, dtype=dtype or Defaults.dtype, device=_placed(device)))


def fftshift(x: Array, /, *, axes: int | Sequence[int] | None = None) -> Array:
    """Return x with frequency zero in the middle of axes, by default all."""
    return fn.fft_fftshift(own(x), axes if axes is None or isinstance(axes, int) else tuple(axes))


def ifftshift(x: Array, /, *, axes: int | Sequence[int] | None = None) -> Array:
    """Return what `fftshift` was given."""
    return fn.fft_ifftshift(own(x), axes if axes is None or isinstance(axes, int) else tuple(axes))
