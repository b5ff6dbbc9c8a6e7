"""Discrete Fourier transforms: three primitives, and torch.fft's functions made of them.

`normalization` is torch's: 0 none, 1 by the root of n, 2 by n. Every derivative is a transform.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import CPU, Defaults, DType
from ..errors import DTypeError, ShapeError
from ..family import composite, floating, structured
from ..spec import Spec, wrap_dim
from .create import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

_NUMPY = ("backward", "ortho", "forward")  # how numpy.fft says it, of a forward transform
_INVERSE = ("forward", "ortho", "backward")  # and of an inverse one


# ----------------------------------------------------------------------------------- primitives --
def _by_stride(spec: Spec, dim: Sequence[int]) -> list[int]:
    """Return dims from the outermost in memory to the innermost."""
    return sorted((wrap_dim(d, spec.ndim) for d in dim), key=lambda d: -spec.stride[d])


def _laid_out(spec: Spec, shape: Sequence[int], dtype: DType, dim: Sequence[int]) -> Spec:
    """Return the spec of a transform over `dim`: these innermost, the others in their order.

    As torch lays it out on a CPU, which brings the transformed dims to the end for MKL.
    """
    dims = [wrap_dim(d, spec.ndim) for d in dim]
    batch = [d for d in _by_stride(spec, range(spec.ndim)) if d not in dims]
    stride, step = [0] * spec.ndim, 1
    for d in reversed([*batch, *dims]):
        stride[d] = step
        step *= max(shape[d], 1)
    return Spec.make(tuple(shape), dtype, spec.device, tuple(stride))


def _c2c(xp: Any, self: Any, dim: Sequence[int], normalization: int, forward: bool) -> Any:
    if not self.size:
        return self.copy()
    if forward:
        return xp.fft.fftn(self, axes=tuple(dim), norm=_NUMPY[normalization])
    return xp.fft.ifftn(self, axes=tuple(dim), norm=_INVERSE[normalization])


def _c2c_meta(self: Spec, dim: Sequence[int], normalization: int, forward: bool) -> Spec:
    return _laid_out(self, self.shape, self.dtype, _by_stride(self, dim)) if dim else self


structured(
    "_fft_c2c(Tensor self, SymInt[] dim, int normalization, bool forward) -> Tensor",
    meta=_c2c_meta,
    kernel=_c2c,
    vjp={
        "self": lambda g, dim, normalization, forward: fn._fft_c2c(
            g, dim, normalization, not forward
        )
    },
)


def _r2c_meta(self: Spec, dim: Sequence[int], normalization: int, onesided: bool) -> Spec:
    shape = list(self.shape)
    if onesided:
        shape[dim[-1]] = shape[dim[-1]] // 2 + 1
    sorted_dims = [*_by_stride(self, dim[:-1]), dim[-1]]
    return _laid_out(self, shape, self.dtype.to_complex(), sorted_dims)


def _r2c(xp: Any, self: Any, dim: Sequence[int], normalization: int, onesided: bool) -> Any:
    transform = xp.fft.rfftn if onesided else xp.fft.fftn
    return transform(self, axes=tuple(dim), norm=_NUMPY[normalization])


def _r2c_grad(
    g: Any, self_spec: Spec, dim: Sequence[int], normalization: int, onesided: bool
) -> Any:
    if onesided:  # the other half was not given out, so nothing comes back from it
        at, n = dim[-1], self_spec.shape[dim[-1]]
        g = _resized(g, at, n)
    return fn.real(fn._fft_c2c(g, dim, normalization, False))


structured(
    "_fft_r2c(Tensor self, int[] dim, int normalization, bool onesided) -> Tensor",
    meta=_r2c_meta,
    kernel=_r2c,
    vjp={"self": _r2c_grad},
)


def _c2r_meta(self: Spec, dim: Sequence[int], normalization: int, last_dim_size: int) -> Spec:
    shape = list(self.shape)
    shape[dim[-1]] = last_dim_size
    first = _c2c_meta(self, dim[:-1], normalization, False)
    return _laid_out(first, shape, self.dtype.to_real(), dim[-1:])


def _c2r(xp: Any, self: Any, dim: Sequence[int], normalization: int, last_dim_size: int) -> Any:
    sizes = [self.shape[d] for d in dim[:-1]] + [last_dim_size]
    return xp.fft.irfftn(self, s=sizes, axes=tuple(dim), norm=_INVERSE[normalization])


def _c2r_grad(
    g: Any, self_spec: Spec, dim: Sequence[int], normalization: int, last_dim_size: int
) -> Any:
    """Every coefficient but the first and the middle one stood for its mirror image too."""
    made = fn._fft_r2c(g, dim, normalization, True)
    at = wrap_dim(dim[-1], self_spec.ndim)
    mirrored = last_dim_size - self_spec.shape[at]
    if mirrored <= 0:
        return made
    parts = [
        fn.narrow(made, at, 0, 1),
        fn.mul(fn.narrow(made, at, 1, mirrored), 2),
        fn.narrow(made, at, 1 + mirrored, self_spec.shape[at] - 1 - mirrored),
    ]
    return fn.cat(parts, at)


structured(
    "_fft_c2r(Tensor self, int[] dim, int normalization, SymInt last_dim_size) -> Tensor",
    meta=_c2r_meta,
    kernel=_c2r,
    vjp={"self": _c2r_grad},
)


# ------------------------------------------------------------------------------------ arguments --
def _norm_code(norm: str | None, forward: bool) -> int:
    codes = {None: 0, "backward": 0, "ortho": 1, "forward": 2}
    if norm not in codes:
        raise ShapeError(f'Invalid normalization mode: "{norm}"')
    return codes[norm] if forward else 2 - codes[norm]


def _real(x: Any) -> Any:
    """Return the tensor in a dtype that can be transformed."""
    dtype: DType = x._spec.dtype
    if dtype.is_reduced:
        raise DTypeError(f"Unsupported dtype {dtype.c_name}")
    return fn._cast(x, floating(dtype)) if dtype.category < 2 else x


def _complex(x: Any) -> Any:
    x = _real(x)
    return x if x._spec.dtype.is_complex else fn._cast(x, x._spec.dtype.to_complex())


def _refuse_complex(name: str, x: Any) -> Any:
    if x._spec.dtype.is_complex:
        kind = "real-valued" if name.endswith("n") else "real"
        raise DTypeError(f"{name} expects a {kind} input tensor, but got {x._spec.dtype.c_name}")
    return _real(x)


def _resized(x: Any, dim: int, n: int) -> Any:
    """Return x with `n` elements along dim: cut, or filled up with zeros."""
    have = x._spec.shape[dim]
    if n < 1:
        raise ShapeError(f"Invalid number of data points ({n}) specified")
    if n == have:
        return x
    if n < have:
        return fn.narrow(x, dim, 0, n)
    zeros = fn.new_zeros(x, (*x._spec.shape[:dim], n - have, *x._spec.shape[dim + 1 :]))
    return fn.cat([x, zeros], dim)


def _one(x: Any, n: int | None, dim: int) -> tuple[Any, int]:
    """Return the resized tensor and the dim counted from the front."""
    dim = wrap_dim(dim, x._spec.ndim)
    size = x._spec.shape[dim] if n is None else n
    return _resized(x, dim, size), dim


def _many(
    x: Any, s: Sequence[int] | None, dim: Sequence[int] | int | None, last: int | None = None
) -> tuple[Any, list[int], int]:
    """Return the resized tensor, its dims, and the size that was asked of the last one."""
    rank = x._spec.ndim
    if isinstance(s, int):
        s = (s,)
    if isinstance(dim, int):
        dim = (dim,)
    if dim is None:
        dim = range(rank - len(s), rank) if s is not None else range(rank)
    dims = [wrap_dim(d, rank) for d in dim]
    if len(set(dims)) != len(dims):
        raise ShapeError("FFT dims must be unique")
    if s is not None and len(s) != len(dims):
        raise ShapeError("When given, dim and shape arguments must have the same length")
    sizes = [x._spec.shape[d] for d in dims] if s is None else list(s)
    sizes = [x._spec.shape[d] if n == -1 else n for d, n in zip(dims, sizes, strict=True)]
    asked = 0
    if last is not None and dims:  # of half a spectrum, the size of the whole is meant
        whole = s is not None and s[-1] != -1
        asked = sizes[-1] if whole else 2 * (x._spec.shape[dims[-1]] - 1)
        if asked < 1:
            raise ShapeError(f"Invalid number of data points ({asked}) specified")
        sizes[-1] = asked // 2 + 1
    for d, n in zip(dims, sizes, strict=True):
        x = _resized(x, d, n)
    return x, dims, asked


# ------------------------------------------------------------------------------------- one dim --
_ONE = "(Tensor self, SymInt? n=None, int dim=-1, str? norm=None) -> Tensor"


@composite("fft_fft" + _ONE)
def fft_fft(self: Any, n: int | None = None, dim: int = -1, norm: str | None = None) -> Any:
    x, dim = _one(_real(self), n, dim)
    if x._spec.dtype.is_complex:
        return fn._fft_c2c(x, [dim], _norm_code(norm, True), True)
    return fn._fft_r2c(x, [dim], _norm_code(norm, True), False)


@composite("fft_ifft" + _ONE)
def fft_ifft(self: Any, n: int | None = None, dim: int = -1, norm: str | None = None) -> Any:
    x, dim = _one(_complex(self), n, dim)
    return fn._fft_c2c(x, [dim], _norm_code(norm, False), False)


@composite("fft_rfft" + _ONE)
def fft_rfft(self: Any, n: int | None = None, dim: int = -1, norm: str | None = None) -> Any:
    x, dim = _one(_refuse_complex("rfft", self), n, dim)
    return fn._fft_r2c(x, [dim], _norm_code(norm, True), True)


def _half_spectrum(x: Any, n: int | None, dim: int) -> tuple[Any, int, int]:
    at = wrap_dim(dim, x._spec.ndim)
    n = 2 * (x._spec.shape[at] - 1) if n is None else n
    if n < 1:
        raise ShapeError(f"Invalid number of data points ({n}) specified")
    return _resized(x, at, n // 2 + 1), at, n


@composite("fft_irfft" + _ONE)
def fft_irfft(self: Any, n: int | None = None, dim: int = -1, norm: str | None = None) -> Any:
    x, dim, n = _half_spectrum(_complex(self), n, dim)
    return fn._fft_c2r(x, [dim], _norm_code(norm, False), n)


@composite("fft_hfft" + _ONE)
def fft_hfft(self: Any, n: int | None = None, dim: int = -1, norm: str | None = None) -> Any:
    """Of a signal whose other half is its mirror image; the spectrum is real."""
    x, dim, n = _half_spectrum(_complex(self), n, dim)
    return fn._fft_c2r(fn.conj(x), [dim], _norm_code(norm, True), n)


@composite("fft_ihfft" + _ONE)
def fft_ihfft(self: Any, n: int | None = None, dim: int = -1, norm: str | None = None) -> Any:
    x, dim = _one(_refuse_complex("ihfft", self), n, dim)
    return fn.conj(fn._fft_r2c(x, [dim], _norm_code(norm, False), True))


# ------------------------------------------------------------------------------------ many dims --
_MANY = "(Tensor self, SymInt[1]? s=None, int[1]? dim=None, str? norm=None) -> Tensor"
_TWO = "(Tensor self, SymInt[1]? s=None, int[1] dim=[-2, -1], str? norm=None) -> Tensor"


@composite("fft_fftn" + _MANY)
def fft_fftn(self: Any, s: Any = None, dim: Any = None, norm: str | None = None) -> Any:
    x, dims, _ = _many(_complex(self), s, dim)
    return fn._fft_c2c(x, dims, _norm_code(norm, True), True) if dims else x


@composite("fft_ifftn" + _MANY)
def fft_ifftn(self: Any, s: Any = None, dim: Any = None, norm: str | None = None) -> Any:
    x, dims, _ = _many(_complex(self), s, dim)
    return fn._fft_c2c(x, dims, _norm_code(norm, False), False) if dims else x


@composite("fft_rfftn" + _MANY)
def fft_rfftn(self: Any, s: Any = None, dim: Any = None, norm: str | None = None) -> Any:
    x, dims, _ = _many(_refuse_complex("rfftn", self), s, dim)
    if not dims:
        raise ShapeError("rfftn must transform at least one axis")
    return fn._fft_r2c(x, dims, _norm_code(norm, True), True)


@composite("fft_irfftn" + _MANY)
def fft_irfftn(self: Any, s: Any = None, dim: Any = None, norm: str | None = None) -> Any:
    x, dims, n = _many(_complex(self), s, dim, last=0)
    if not dims:
        raise ShapeError("irfftn must transform at least one axis")
    return fn._fft_c2r(x, dims, _norm_code(norm, False), n)


@composite("fft_hfftn" + _MANY)
def fft_hfftn(self: Any, s: Any = None, dim: Any = None, norm: str | None = None) -> Any:
    """Of a signal whose other half is its mirror image; all dims but the last by plain fft."""
    x, dims, n = _many(_complex(self), s, dim, last=0)
    if not dims:
        raise ShapeError("hfftn must transform at least one axis")
    code = _norm_code(norm, True)
    if len(dims) > 1:
        x = fn._fft_c2c(x, dims[:-1], code, True)
    return fn._fft_c2r(fn.conj(x), dims[-1:], code, n)


@composite("fft_ihfftn" + _MANY)
def fft_ihfftn(self: Any, s: Any = None, dim: Any = None, norm: str | None = None) -> Any:
    if self._spec.dtype.is_complex:
        kind = self._spec.dtype.c_name
        raise DTypeError(f"Only supports floating-point dtypes, but found: {kind}")
    x, dims, _ = _many(_real(self), s, dim)
    if not dims:
        raise ShapeError("ihfftn must transform at least one axis")
    code = _norm_code(norm, False)
    x = fn.conj(fn._fft_r2c(x, dims[-1:], code, True))
    return fn._fft_c2c(x, dims[:-1], code, False) if len(dims) > 1 else x


@composite("fft_hfft2" + _TWO)
def fft_hfft2(self: Any, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Any:
    return fn.fft_hfftn(self, s, dim, norm)


@composite("fft_ihfft2" + _TWO)
def fft_ihfft2(self: Any, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Any:
    return fn.fft_ihfftn(self, s, dim, norm)


@composite("fft_fft2" + _TWO)
def fft_fft2(self: Any, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Any:
    return fn.fft_fftn(self, s, dim, norm)


@composite("fft_ifft2" + _TWO)
def fft_ifft2(self: Any, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Any:
    return fn.fft_ifftn(self, s, dim, norm)


@composite("fft_rfft2" + _TWO)
def fft_rfft2(self: Any, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Any:
    return fn.fft_rfftn(self, s, dim, norm)


@composite("fft_irfft2" + _TWO)
def fft_irfft2(self: Any, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Any:
    return fn.fft_irfftn(self, s, dim, norm)


# -------------------------------------------------------------------------------- frequencies --
@composite(f"fft_fftfreq(int n, float d=1., *, {OPTIONS}) -> Tensor")
def fft_fftfreq(n: int, d: float = 1.0, **options: Any) -> Any:
    """0, 1, ..., -2, -1 over n * d."""
    half = (n + 1) // 2
    options["dtype"] = options.get("dtype") or Defaults.dtype
    options["device"] = options.get("device") or CPU
    steps = fn.cat([fn.arange(half, **options), fn.arange(-(n // 2), 0, **options)])
    return fn.mul(steps, 1.0 / (n * d))


@composite(f"fft_rfftfreq(int n, float d=1., *, {OPTIONS}) -> Tensor")
def fft_rfftfreq(n: int, d: float = 1.0, **options: Any) -> Any:
    options["dtype"] = options.get("dtype") or Defaults.dtype
    options["device"] = options.get("device") or CPU
    return fn.mul(fn.arange(n // 2 + 1, **options), 1.0 / (n * d))


@composite("fft_fftshift(Tensor self, int[1]? dim=None) -> Tensor")
def fft_fftshift(self: Any, dim: Any = None) -> Any:
    """Bring the frequency zero to the middle."""
    dims = _shifted_dims(self._spec, dim)
    return fn.roll(self, [self._spec.shape[d] // 2 for d in dims], dims)


@composite("fft_ifftshift(Tensor self, int[1]? dim=None) -> Tensor")
def fft_ifftshift(self: Any, dim: Any = None) -> Any:
    dims = _shifted_dims(self._spec, dim)
    return fn.roll(self, [(self._spec.shape[d] + 1) // 2 for d in dims], dims)


def _shifted_dims(spec: Spec, dim: Any) -> list[int]:
    if dim is None:
        return list(range(spec.ndim))
    return [wrap_dim(d, spec.ndim) for d in ((dim,) if isinstance(dim, int) else dim)]
