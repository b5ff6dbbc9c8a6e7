"""Short-time Fourier transforms: frames of a signal, weighted by a window, each transformed.

`stft` is of three steps - a view of the frames, a product, a transform -, `istft` their inverses in
turn: frames are added where they overlap, and divided by what the windows add up to there.
"""

from __future__ import annotations

from typing import Any

from .. import notice
from ..call import fn
from ..errors import ParameterError, ShapeError
from ..family import composite, structured
from ..spec import Spec

_NONE, _BY_ROOT_N, _BY_N = 0, 1, 2  # torch's codes of normalizations
_SMALLEST_SUM = 1e-11  # of squared windows, below which a sample has no information


@composite(
    "stft.center(Tensor self, int n_fft, int? hop_length=None, int? win_length=None, "
    'Tensor? window=None, bool center=True, str pad_mode="reflect", bool normalized=False, '
    "bool? onesided=None, bool? return_complex=None, bool? align_to_window=None) -> Tensor"
)
def stft(
    self: Any,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Any = None,
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Any:
    """Frequencies by frames, of a signal or a batch of them."""
    spec: Spec = self._spec
    if center and align_to_window is not None:
        raise ShapeError("stft align_to_window should only be set when center = false")
    signal = self if spec.ndim == 2 else fn.reshape(self, (-1, spec.shape[-1] if spec.ndim else 1))
    if center and spec.ndim in (1, 2):
        half = n_fft // 2
        signal = fn.squeeze(fn.pad(fn.unsqueeze(signal, 0), (half, half), pad_mode), 0)
    hop = n_fft // 4 if hop_length is None else hop_length
    size = n_fft if win_length is None else win_length
    is_complex = spec.dtype.is_complex or (window is not None and window._spec.dtype.is_complex)
    if return_complex is None and not is_complex:
        raise ShapeError(
            "stft requires the return_complex parameter be given for real inputs, and will further "
            "require that return_complex=True in a future PyTorch release."
        )
    _check(self, signal._spec.shape[-1], n_fft, hop, size, window)
    if onesided and is_complex:
        raise ShapeError("Cannot have onesided output if window or input is complex")
    if return_complex is False and not is_complex:
        _deprecated()
    if align_to_window and not center:
        beside = (n_fft - size) // 2
        signal = fn.constant_pad_nd(signal, (beside, beside))
    frames = fn.unfold(signal, -1, n_fft, hop)
    if window is not None:
        frames = fn.mul(frames, _centred(window, n_fft))
    elif size < n_fft:
        ones = fn.ones((size,), dtype=spec.dtype, device=spec.device)
        frames = fn.mul(frames, _centred(ones, n_fft))
    norm = _BY_ROOT_N if normalized else _NONE
    if is_complex:
        found = fn._fft_c2c(frames, (2,), norm, True)
    else:
        found = fn._fft_r2c(frames, (2,), norm, onesided is None or onesided)
    found = fn.transpose(found, 1, 2)
    if spec.ndim == 1:
        found = fn.squeeze(found, 0)
    return found if return_complex or return_complex is None else fn.view_as_real(found)


def _check(self: Any, length: int, n_fft: int, hop: int, size: int, window: Any) -> None:
    """Raise ShapeError, naming the call, for what makes no frames."""
    spec: Spec = self._spec
    wrong = None
    if spec.dtype.category < 2:
        wrong = "expected a tensor of floating point or complex values"
    elif spec.ndim not in (1, 2):
        wrong = "expected a 1D or 2D tensor"
    elif not 0 < n_fft <= length:
        wrong = f"expected 0 < n_fft < {length}, but got n_fft={n_fft}"
    elif hop <= 0:
        wrong = f"expected hop_length > 0, but got hop_length={hop}"
    elif not 0 < size <= n_fft:
        wrong = f"expected 0 < win_length <= n_fft, but got win_length={size}"
    elif window is not None and window._spec.shape != (size,):
        wrong = (
            f"expected a 1D window tensor of size equal to win_length={size}, but got window with "
            f"size {list(window._spec.shape)}"
        )
    if wrong:
        call = f"stft({list(spec.shape)}, n_fft={n_fft}, hop_length={hop}, win_length={size})"
        raise ShapeError(f"{call} : {wrong}")


def _deprecated() -> None:
    notice.warn(
        "stft with return_complex=False is deprecated. In a future pytorch release, stft will "
        "return complex tensors for all inputs, and return_complex=False will raise an error.\n"
        "Note: you can still call torch.view_as_real on the complex output to recover the old "
        "return format.",
    )


def _centred(window: Any, n_fft: int) -> Any:
    """Return the window with zeros on both sides, n_fft long."""
    missing = n_fft - window._spec.shape[0]
    if not missing:
        return window
    return fn.constant_pad_nd(window, (missing // 2, missing - missing // 2))


# --------------------------------------------------------------------------------------- inverse --
@composite(
    "istft(Tensor self, int n_fft, int? hop_length=None, int? win_length=None, Tensor? window=None,"
    " bool center=True, bool normalized=False, bool? onesided=None, int? length=None, "
    "bool return_complex=False) -> Tensor"
)
def istft(
    self: Any,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Any = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Any:
    """The signal whose frames are nearest to these, in the sense of least squares."""
    spec: Spec = self._spec
    if window is None:
        notice.warn(
            "A window was not provided. A rectangular window will be applied."
            "Please provide the same window used by stft to make the inversion lossless."
            "To suppress this warning and use a rectangular window, explicitly set "
            "`window=torch.ones(n_fft, device=<device>)`.",
        )
    hop = n_fft // 4 if hop_length is None else hop_length
    size = n_fft if win_length is None else win_length
    half = _is_half(spec, n_fft, onesided, return_complex)
    _check_inverse(spec, n_fft, hop, size, window, half)
    if return_complex and half:
        raise ShapeError("Cannot have onesided output if window or input is complex")
    if window is not None and window._spec.dtype.is_complex and not return_complex:
        raise ShapeError("Complex windows are incompatible with return_complex=False")
    if window is None:
        window = fn.ones((size,), dtype=spec.dtype.to_real(), device=spec.device)
    window = _centred(window, n_fft)
    coefficients = fn.transpose(self if spec.ndim == 3 else fn.unsqueeze(self, 0), 1, 2)
    norm = _BY_ROOT_N if normalized else _BY_N
    if return_complex:
        frames = fn._fft_c2c(coefficients, (2,), norm, False)
    else:
        if not half:
            coefficients = fn.narrow(coefficients, 2, 0, n_fft // 2 + 1)
        frames = fn._fft_c2r(coefficients, (2,), norm, n_fft)
    frames = fn.mul(frames, fn.reshape(window, (1, 1, n_fft)))
    found = _overlapped(frames, window, n_fft, hop, center, length)
    return found if spec.ndim == 3 else fn.squeeze(found, 0)


def _overlapped(
    frames: Any, window: Any, n_fft: int, hop: int, center: bool, length: int | None
) -> Any:
    """Add the frames up and divide by the sum of squared windows, within the signal's bounds."""
    batch, count, _ = frames._spec.shape
    whole = n_fft + hop * (count - 1)
    start = n_fft // 2 if center else 0
    end = start + length if length is not None else whole - start
    signal = fn.unfold_backward(frames, (batch, whole), 1, n_fft, hop)
    kept = min(end, whole) - start
    squares = fn.mul(window, window)
    weights = fn.unfold_backward(fn.expand(squares, (count, n_fft)), (whole,), 0, n_fft, hop)
    weights = fn._positive(fn.narrow(weights, 0, start, kept))
    signal = fn.div(fn.narrow(signal, 1, start, kept), weights)
    if end <= whole:
        return signal
    notice.warn(
        "The length of signal is shorter than the length parameter. Result is being padded with "
        "zeros in the tail. Please check your center and hop_length settings.",
    )
    return fn.constant_pad_nd(signal, (0, end - whole))


def _is_half(spec: Spec, n_fft: int, onesided: bool | None, return_complex: bool) -> bool:
    """Return whether the coefficients are those of a real signal without their mirror image."""
    if onesided is not None:
        return onesided
    return spec.ndim >= 2 and spec.shape[-2] != n_fft


def _check_inverse(spec: Spec, n_fft: int, hop: int, size: int, window: Any, half: bool) -> None:
    wrong = None
    if not spec.dtype.is_complex:
        raise ShapeError(
            "istft requires a complex-valued input tensor matching the output from stft with "
            "return_complex=True."
        )
    frequencies = spec.shape[-2] if spec.ndim >= 2 else 0
    if not spec.numel:
        wrong = "input tensor cannot be empty."
    elif spec.ndim not in (2, 3):
        wrong = f"expected a tensor with 2 or 3 dimensions, but got {spec.ndim}"
    elif half and frequencies != n_fft // 2 + 1:
        wrong = (
            "expected the frequency dimension (3rd to the last) of the input tensor to match "
            f"n_fft / 2 + 1 when onesided=True, but got {frequencies}"
        )
    elif not half and frequencies != n_fft:
        wrong = (
            "expected the frequency dimension (3rd to the last) of the input tensor to match "
            f"n_fft when onesided=False, but got {frequencies}"
        )
    elif not 0 < hop <= size:
        wrong = "expected 0 < hop_length <= win_length"
    elif not 0 < size <= n_fft:
        wrong = "expected 0 < win_length <= n_fft"
    elif window is not None and window._spec.shape != (size,):
        wrong = "Invalid window shape. window has to be 1D and length of `win_length`"
    if wrong:
        call = f"istft({list(spec.shape)}, n_fft={n_fft}, hop_length={hop}, win_length={size})"
        raise ShapeError(f"{call} : {wrong}")


def _refuse_zeros(xp: Any, self: Any) -> Any:
    if self.size and not float(xp.min(xp.abs(self))) > _SMALLEST_SUM:
        raise ParameterError(
            "istft() window overlap add min: the windows do not cover every sample, so that it "
            "cannot be found; take a window without zeros at its ends, or a smaller hop_length"
        )
    return self


# The check is a kernel of its own, since only the worker knows the window: nobody waits for it.
structured(
    "farspan::_positive(Tensor self) -> Tensor",
    meta=lambda self: self.packed,
    kernel=_refuse_zeros,
    vjp={"self": lambda g: g},
)
