"""Inputs for Fourier transforms: odd and even lengths, cut and filled up, every norm."""

import numpy as np

from samples import call, samples

ALL = ("int64", "float32", "float64", "complex64", "complex128")
REAL = ("float32", "float64", "int64")
COMPLEX = ("complex64", "complex128")
LOOSE = {"rtol": 1e-4, "atol": 1e-4, "reason": "sums in another order"}


@samples("_fft_c2c", dtypes=COMPLEX, **LOOSE)
def _c2c(make):
    return [
        call(make(2, 5), [1], 0, True),
        call(make(2, 5), [0, 1], 1, False),
        call(make(3, 4, 2), [0, 2], 2, True),
        call(make(0, 4), [1], 0, True),
    ]


@samples("_fft_r2c", dtypes=("float32", "float64"), **LOOSE)
def _r2c(make):
    return [
        call(make(2, 5), [1], 0, True),
        call(make(2, 6), [0, 1], 1, True),
        call(make(2, 6), [1], 2, False),
    ]


@samples("_fft_c2r", dtypes=COMPLEX, **LOOSE)
def _c2r(make):
    return [
        call(make(2, 3), [1], 0, 5),
        call(make(2, 4), [0, 1], 1, 6),
        call(make(2, 3), [1], 2, 4),
    ]


@samples("fft_fft", "fft_ifft", dtypes=ALL, **LOOSE)
def _one(make):
    norms = (None, "backward", "ortho", "forward")
    calls = [call(make(2, 5), norm=norm) for norm in norms]
    return [*calls, call(make(4, 3), dim=0), call(make(2, 5), 3), call(make(2, 5), n=8)]


@samples("fft_rfft", "fft_ihfft", dtypes=REAL, **LOOSE)
def _real(make):
    return [call(make(2, 5)), call(make(2, 6), norm="ortho"), call(make(2, 5), 8, 0)]


@samples("fft_irfft", "fft_hfft", dtypes=("float64", *COMPLEX), **LOOSE)
def _half(make):
    return [call(make(2, 4)), call(make(2, 4), 7, norm="ortho"), call(make(2, 4), 5, 0)]


@samples("fft_fftn", "fft_ifftn", "fft_fft2", "fft_ifft2", dtypes=ALL, **LOOSE)
def _many(make):
    return [
        call(make(2, 3, 4)),
        call(make(2, 3, 4), norm="ortho"),
        call(make(2, 3, 4), (4, 2), (0, 2), "forward"),
    ]


@samples("fft_rfftn", "fft_rfft2", dtypes=REAL, **LOOSE)
def _many_real(make):
    return [call(make(2, 3, 4)), call(make(2, 3, 4), (4, 5), (0, 2), "ortho")]


@samples("fft_irfftn", "fft_irfft2", dtypes=COMPLEX, **LOOSE)
def _many_half(make):
    return [call(make(2, 3, 4)), call(make(2, 3, 4), (4, 5), (0, 2), "ortho")]


@samples("fft_hfftn", "fft_hfft2", dtypes=("float64", *COMPLEX), **LOOSE)
def _many_hermitian(make):
    return [
        call(make(2, 3, 4)),
        call(make(2, 3, 4), (4, 5), (0, 2), "ortho"),
        call(make(2, 3, 4), (7,), (1,), "forward"),
    ]


@samples("fft_ihfftn", "fft_ihfft2", dtypes=REAL, **LOOSE)
def _many_from_hermitian(make):
    return [
        call(make(2, 3, 4)),
        call(make(2, 3, 4), (4, 5), (0, 2), "ortho"),
        call(make(2, 3, 4), (7,), (1,), "forward"),
    ]


@samples("fft_fftfreq", "fft_rfftfreq", dtypes=("float32",))
def _frequencies(make):
    return [call(5), call(6, 0.5), call(1)]


@samples("fft_fftshift", "fft_ifftshift")
def _shift(make):
    return [call(make(5)), call(make(4, 3)), call(make(4, 3), 1), call(make(4, 3), (0, 1))]


@samples("stft.center", dtypes=("float32", "float64", "complex64"), **LOOSE)
def _stft(make):
    x, window = make(2, 20), np.asarray(make(8).real)
    options = {"window": window, "return_complex": True}
    return [
        call(x, 8, **options),
        call(x[0], 8, 3, 6, window[:6], normalized=True, return_complex=True),
        call(x, 8, **options, center=False, onesided=False),
        call(x, 7, 2, pad_mode="constant", return_complex=True),
        call(x, 8, 2, 5, window[:5], False, return_complex=True, align_to_window=True),
        call(x, 8, return_complex=False),
    ]


@samples("istft", dtypes=COMPLEX, **LOOSE)
def _istft(make):
    window = np.asarray(make(8, low=1).real)
    half = make(2, 5, 6)
    return [
        call(half, 8, window=window),
        call(half[0], 8, 3, 6, np.abs(window[:6]), normalized=True),
        call(half, 8, window=window, length=7),
        call(half, 8, window=window, length=40),
        call(make(2, 8, 6), 8, window=window, center=False, onesided=False),
        call(make(2, 8, 6), 8, window=window, onesided=False, return_complex=True),
        call(half, 9, 2),
    ]


@samples("_positive", dtypes=("float32", "float64"))
def _positive(make):
    return [call(make(3, low=1)), call(make(2, 3, low=1))]
