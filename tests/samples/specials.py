"""Inputs for special functions: their whole domains, and off the points where torch errs itself."""

from __future__ import annotations

import numpy as np
from farspan.core.op import table

from samples import FLOATS, Strided, call, facts, samples
from samples.pointwise import Within, within

REAL = ("bool", "uint8", "int64", *FLOATS)
HALF = ("float16", "bfloat16")
HALVES = (2e-2, 2e-3)  # torch rounds to half precision in between, too
EXTREME = (0.0, -0.0, 1.0, -1.0, 1e-20, 30.0, -30.0, np.inf, -np.inf, np.nan)
#: torch computes in float32 where our kernels compute in float64 and round once
LOOSE = {"rtol": 2e-5, "atol": 1e-5, "reason": "torch's own float32 rounding"}


def _whole_line(make):
    """Return calls over shapes, and over the limits of a real function's domain."""
    wide = Within(make.dtype, -12, 12)
    calls = [call(wide(*shape)) for shape in ((3, 4), (), (0, 3), (2, 3, 4))]
    calls.append(call(Strided(wide(3, 4))))
    if make.dtype in FLOATS:
        calls.append(call(np.asarray(EXTREME, make.dtype)))
    return calls


BESSEL = [
    n
    for n in table()
    if n.startswith(("special_bessel", "special_modified", "special_scaled", "special_spherical",
                     "special_airy"))
]  # fmt: skip
samples(*BESSEL, dtypes=REAL, **LOOSE)(_whole_line)
samples("special_ndtr", "special_entr", dtypes=REAL, **LOOSE)(_whole_line)
# At -inf torch's derivative is nan, ours the limit; the value there is in test_special.py.
within(-40, 12, "special_log_ndtr", dtypes=REAL, **LOOSE)
within(-4, 4, "special_erfcx", dtypes=REAL, **LOOSE)
within(-8, 8, "i0", "special_i0e", "special_i1", "special_i1e",
       half=HALVES, **LOOSE)  # fmt: skip
within(0.01, 0.99, "special_ndtri", dtypes=REAL, **LOOSE)


# ------------------------------------------------------------------------------------ polynomials --
def _degrees(make):
    """Return degrees as the argument's dtype has them; some are not whole."""
    return np.asarray([0, 1, 2, 3, 5, 8, 12, 30], "int64" if "int" in make.dtype else make.dtype)


def _argument(make):
    values = [-1.5, -1, -0.7, 0, 0.3, 1, 1.25]
    return np.asarray(values)[:, None].astype(make.dtype)


POLYNOMIALS = [n for n in table() if "polynomial" in n]
PLAIN = [n for n in POLYNOMIALS if "." not in n]


@samples(*PLAIN, dtypes=("int64", *FLOATS), rtol=1e-4, atol=1e-4, reason=LOOSE["reason"])
def _polynomial(make):
    m = Within(make.dtype, -2, 2)
    x, n = _argument(make), _degrees(make)
    return [call(x, n), call(m(3, 4), n[:4]), call(m(), np.asarray(n[2])), call(m(0, 2), n[:2])]


@samples(*[n for n in POLYNOMIALS if n.endswith("n_scalar")], dtypes=("int64", *FLOATS), **LOOSE)
def _polynomial_of_degree(make):
    m = Within(make.dtype, -2, 2)
    return [call(m(3, 4), n) for n in (0, 1, 2, 7, -1, 2.5)] + [call(_argument(make), 6)]


@samples(*[n for n in POLYNOMIALS if n.endswith("x_scalar")], dtypes=("int64", *FLOATS), **LOOSE)
def _polynomial_at(make):
    return [call(x, _degrees(make)) for x in (0.5, -1, 1, 2, 0)]


# ----------------------------------------------------------------------- gammas, divisors, parts --
UNKNOWN = {
    **LOOSE,
    "differences": False,
    "reason": "torch has no derivative in the first argument; test_special.py has the other",
}


@samples("igamma", "igammac", dtypes=(*HALF, *FLOATS), half=HALVES, **UNKNOWN)
def _incomplete_gamma(make):
    m = Within(make.dtype, 0.1, 9)
    pairs = [((3, 4), (3, 4)), ((3, 1), (4,)), ((), ()), ((0, 2), (2,))]
    calls = [call(m(*a), m(*b)) for a, b in pairs]
    if make.dtype in FLOATS:
        a = np.asarray([0, 0.01, 0.3, 1, 5, 25, 300, 1e4, np.inf, np.nan, -1], make.dtype)
        ratio = np.asarray([0, 0.001, 0.5, 0.9, 1, 1.1, 2, 100, np.inf, np.nan], make.dtype)
        calls.append(call(a[:, None], a[:, None] * ratio))
    return calls


@samples("mvlgamma", dtypes=("uint8", "int64", *FLOATS), **LOOSE)
def _mvlgamma(make):
    m = Within(make.dtype, 3, 9)
    return [call(m(*shape), p) for shape in ((3, 4), (), (0, 2)) for p in (1, 2, 4)]


@samples("polygamma_", dtypes=FLOATS, grad=False, reason="in place: polygamma has the gradient")
def _polygamma_inplace(make):
    m = Within(make.dtype, 0.5, 5)
    return [call(m(3, 4), n) for n in (0, 1, 2)]


ZETA = {"dtypes": ("int64", *FLOATS), **UNKNOWN}


@samples("special_zeta", **ZETA)
def _zeta(make):
    s, q = Within(make.dtype, 1, 9), Within(make.dtype, 0.1, 9)
    calls = [call(s(*a), q(*b)) for a, b in (((3, 4), (3, 4)), ((3, 1), (4,)), ((), ()))]
    edges = np.asarray([0, 0.5, 1, 2, 3, 30], make.dtype)
    return [*calls, call(edges[:, None], np.asarray([-2.5, -2, 0, 1, 40], make.dtype))]


@samples("special_zeta.self_scalar", **ZETA)
def _zeta_number(make):
    return [call(s, Within(make.dtype, 0.1, 9)(3, 4)) for s in (1, 2, 3.5)]


@samples("special_zeta.other_scalar", **ZETA)
def _zeta_at(make):
    return [call(Within(make.dtype, 1, 9)(3, 4), q) for q in (1, 2.5)]


within(0.02, 3, "special_xlog1py", "special_xlog1py.self_scalar", "special_xlog1py.other_scalar",
       "special_xlogy", "special_xlogy.self_scalar", "special_xlogy.other_scalar")  # fmt: skip
facts("nextafter", dtypes=(*HALF, *FLOATS), differences=False, reason="a step, not a slope")


@samples("frexp.Tensor", dtypes=(*HALF, *FLOATS), outputs=1, second=False, differences=False,
         reason="torch's derivative takes the exponent for a constant")  # fmt: skip
def _frexp(make):
    calls = [call(make(*shape)) for shape in ((3, 4), (), (0, 2))] + [call(Strided(make(3, 4)))]
    if make.dtype in FLOATS:
        calls.append(call(np.asarray([0, 1, -3, np.inf, np.nan], make.dtype)))
    return calls


# --------------------------------------------------------------------- names with other schemas --
@samples("special_round")
def _round(make):
    return [call(make(3, 4)), call(make(3, 4), decimals=1), call(make())]


@samples("special_softmax", dtypes=(*HALF, *FLOATS))
def _softmax(make):
    import farspan

    return [call(make(3, 4), 0), call(make(), 0), call(make(3, 4), 1, dtype=farspan.float64)]


@samples("special_log_softmax", dtypes=FLOATS)
def _log_softmax(make):
    import farspan

    return [call(make(3, 4), -1), call(make(3, 4), 1, dtype=farspan.float64)]


# ---------------------------------------------------------------------------------------- windows --
WINDOWS = [n for n in table() if n.partition(".")[0].endswith("_window") and n[0] != "_"]
_LENGTHS = (0, 1, 2, 5, 8)


@samples(*[n for n in WINDOWS if "." not in n], dtypes=("float32",), half=HALVES, atol=1e-6,
         rtol=1e-5, reason="torch's steps are of the window's own precision")  # fmt: skip
def _window(make):
    import farspan

    kinds = (None, farspan.float64, farspan.float16, farspan.bfloat16)
    return [call(n, dtype=d) for n in _LENGTHS for d in kinds]


def _window_with(*numbers):
    def calls(make):
        return [call(n, periodic, *numbers) for n in _LENGTHS for periodic in (True, False)]

    return calls


samples(*[n for n in WINDOWS if n.endswith(".periodic")], dtypes=("float32",), atol=1e-6,
        rtol=1e-5)(_window_with())  # fmt: skip
samples("hamming_window.periodic_alpha", dtypes=("float32",))(_window_with(0.5))
samples("hamming_window.periodic_alpha_beta", dtypes=("float32",))(_window_with(0.5, 0.4))
samples("kaiser_window.beta", dtypes=("float32",))(_window_with(7.5))
