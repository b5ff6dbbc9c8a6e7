"""torch.fft, torch.stft and torch.istft: dtypes, sizes, both directions, gradients and refusals."""

from __future__ import annotations

import itertools
from typing import Any

from beside_torch import failure, grad_of, leaf, same

ONE = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")
MANY = ("fftn", "ifftn", "rfftn", "irfftn", "hfftn", "ihfftn")
TWO = ("fft2", "ifft2", "rfft2", "irfft2", "hfft2", "ihfft2")


@same
def test_dtypes_of_transforms(torch: Any) -> Any:
    found = []
    dtypes = (torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32,
              torch.float64, torch.complex64, torch.complex128)  # fmt: skip
    for name in (*ONE, *MANY, *TWO):
        transform = getattr(torch.fft, name)
        for dtype in dtypes:
            x = torch.ones(4, 4, dtype=dtype)
            words = failure(lambda f=transform, x=x: f(x))
            found.append(transform(x).dtype if words == "nothing was raised" else words)
    return found


@same
def test_transforms_undo_each_other(torch: Any) -> Any:
    x, f = leaf(torch, 2, 3, 4).detach(), torch.fft
    found = [f.ifft(f.fft(x)), f.irfft(f.rfft(x), 4), f.hfft(f.ihfft(x), 4), f.ifftn(f.fftn(x))]
    found += [f.irfftn(f.rfftn(x), x.shape), f.hfftn(f.ihfftn(x), x.shape), f.ifft2(f.fft2(x))]
    found += [f.irfft2(f.rfft2(x), x.shape[1:]), f.hfft2(f.ihfft2(x), x.shape[1:])]
    found += [f.hfftn(x, (3, 5), (0, 2), "ortho"), f.ihfftn(x, (5,), -2, norm="forward")]
    found += [f.hfft2(x, s=(2, 6)), f.ihfft2(x, dim=(0, 1)), f.fftn(x, s=(-1, 2), dim=(0, 1))]
    return [torch.resolve_conj(y) for y in found]


@same
def test_results_lie_in_memory_as_torchs(torch: Any) -> Any:
    """The transformed dims are innermost, the others in the order that they had."""
    found = []
    for name in (*ONE, *MANY):
        for order in itertools.permutations(range(3)):
            x = torch.ones(2, 3, 4).permute(*order)
            dims = (0, 1, 2, -1) if name in ONE else ((0,), (0, 1), (2, 0), (1, 2, 0))
            found += [tuple(getattr(torch.fft, name)(x, dim=d).stride()) for d in dims]
    return found


@same
def test_names_of_torch_fft(torch: Any) -> Any:
    names = {n for n in torch.fft.__all__ if n not in (*TWO[4:], *MANY[4:])}
    return [sorted(names), torch.fft.Tensor is torch.Tensor]


@same
def test_out_frequencies_and_shifts(torch: Any) -> Any:
    x, f = leaf(torch, 4, 3).detach(), torch.fft
    out = torch.empty(4, 3, dtype=torch.complex64)
    f.fft(x, out=out)
    return [
        out, f.fftfreq(5, 0.5), f.rfftfreq(6), f.fftfreq(4, dtype=torch.float64), f.fftshift(x),
        f.ifftshift(x, dim=0), f.fftshift(x, (0, 1)), failure(lambda: f.fftfreq(-1)),
        f.fftfreq(3, requires_grad=True).requires_grad, failure(lambda: f.fftshift(x, 5)),
    ]  # fmt: skip


@same
def test_gradients_of_hermitian_transforms(torch: Any) -> Any:
    x, f = leaf(torch, 3, 4, dtype="float64"), torch.fft
    return [
        grad_of(torch, f.hfftn(x), x), grad_of(torch, f.hfft2(x, (3, 5)), x),
        grad_of(torch, torch.view_as_real(f.ihfftn(x)), x),
        grad_of(torch, torch.view_as_real(f.ihfft2(x, norm="ortho")), x),
    ]  # fmt: skip


@same
def test_transforms_refuse_what_torch_refuses(torch: Any) -> Any:
    x, f = torch.ones(4, 4), torch.fft
    z = torch.ones(4, 4, dtype=torch.complex64)
    found = []
    for name in ONE:
        transform = getattr(f, name)
        found += [failure(lambda t=transform: t(x, 0), "Invalid number of data points")]
        found += [failure(lambda t=transform: t(x, dim=2), "Dimension out of range")]
        found += [failure(lambda t=transform: t(x, norm="no"), "Invalid normalization mode")]
        found += [failure(lambda t=transform: t(torch.tensor(1.0)))]
    for name in (*MANY, *TWO):
        transform = getattr(f, name)
        found += [failure(lambda t=transform: t(x, (2,), (0, 1)), "same length")]
        found += [failure(lambda t=transform: t(x, (0, 2), (0, 1)), "Invalid number of data")]
        found += [failure(lambda t=transform: t(x, dim=(0, 0)), "unique")]
        found += [failure(lambda t=transform: t(x, norm="no"), "Invalid normalization mode")]
        found += [failure(lambda t=transform: t(x, dim=(0, 3)), "Dimension out of range")]
        found += [failure(lambda t=transform: t(x, (2, 2, 2)))]
    for name in ("rfft", "ihfft", "rfftn", "ihfftn", "rfft2", "ihfft2"):
        words = "floating-point" if name in ("ihfftn", "ihfft2") else "expects a real"
        transform = getattr(f, name)
        found += [failure(lambda t=transform: t(z), words)]
    return found


# ------------------------------------------------------------------------------- in short times --
@same
def test_short_time_transforms(torch: Any) -> Any:
    x = leaf(torch, 2, 40).detach()
    hann = torch.hann_window(8)
    complete = {"window": hann, "return_complex": True}
    found = [
        torch.stft(x, 8, **complete), x.stft(8, **complete), torch.stft(x[0], 8, 3, **complete),
        torch.stft(x, 8, **complete, center=False), torch.stft(x, 8, **complete, normalized=True),
        torch.stft(x, 8, **complete, pad_mode="constant"),
        torch.stft(x, 8, **complete, onesided=False),
        torch.stft(x, 8, 2, 5, return_complex=True), torch.stft(x, 8, return_complex=False),
        torch.stft(torch.complex(x, x), 8, window=hann), torch.stft(x, 8, window=hann.double(),
                                                                     return_complex=True),
        torch.stft(x, 8, win_length=5, center=False, align_to_window=True, return_complex=True),
    ]  # fmt: skip
    return [*found, [s.stride() for s in found]]


@same
def test_inverse_short_time_transforms(torch: Any) -> Any:
    x = leaf(torch, 2, 40).detach()
    hamming = torch.hamming_window(8)
    s = torch.stft(x, 8, window=hamming, return_complex=True)
    full = torch.stft(x, 8, window=hamming, return_complex=True, onesided=False)
    k = {"window": hamming}
    return [
        torch.istft(s, 8, **k), s.istft(8, **k), torch.istft(s[0], 8, **k, length=35),
        torch.istft(s, 8, **k, length=50), torch.istft(full, 8, **k, onesided=False),
        torch.istft(full, 8, **k, return_complex=True), torch.istft(s, 8, **k, center=False),
        torch.istft(s, 8, **k, normalized=True), torch.istft(s, 8, 3, 8), torch.istft(s, 9),
    ]  # fmt: skip


@same
def test_gradients_go_through_short_time_transforms(torch: Any) -> Any:
    x = leaf(torch, 30, dtype="float64")
    window = torch.hamming_window(8, dtype=torch.float64).requires_grad_()
    s = torch.stft(x, 8, window=window, return_complex=True)
    y = torch.istft(s * s.abs(), 8, window=window)
    return grad_of(torch, y, x, window)


@same
def test_short_time_transforms_refuse_what_torch_refuses(torch: Any) -> Any:
    x, ones = torch.ones(2, 40), torch.ones(8)
    real = {"return_complex": True}
    s = torch.stft(x, 8, window=ones, **real)
    actions = {
        "return_complex parameter": lambda: torch.stft(x, 8),
        "expected a 1D or 2D tensor": lambda: torch.stft(x[None], 8, **real),
        "expected hop_length > 0": lambda: torch.stft(x, 8, 0, **real),
        "expected 0 < n_fft": lambda: torch.stft(x, 100, center=False, **real),
        "expected 0 < win_length": lambda: torch.stft(x, 8, win_length=9, **real),
        "expected a 1D window": lambda: torch.stft(x, 8, window=torch.ones(7), **real),
        "floating point or complex": lambda: torch.stft(x.long(), 8, center=False, **real),
        "Cannot have onesided": lambda: torch.stft(x.cfloat(), 8, onesided=True),
        "align_to_window": lambda: torch.stft(x, 8, align_to_window=True, **real),
        "requires a complex-valued": lambda: torch.istft(s.abs(), 8),
        "0 < hop_length <= win_length": lambda: torch.istft(s, 8, 9),
        "Invalid window shape": lambda: torch.istft(s, 8, window=torch.ones(5)),
        "match n_fft": lambda: torch.istft(s, 8, onesided=False),
        "cannot be empty": lambda: torch.istft(s[..., :0], 8),
        "Complex windows": lambda: torch.istft(s, 8, window=ones.cfloat()),
        "onesided output": lambda: torch.istft(s, 8, window=ones, **real),
        "overlap add min": lambda: torch.istft(s, 8, window=ones * 0).sum().item(),
    }
    return [failure(action, words) for words, action in actions.items()]
