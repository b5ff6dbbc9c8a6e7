"""torch.special, torch.signal and torch.fft: every name, at the edges of its domain, and refusals.

What holds for single ops is in the laws; here are the namespaces' own names, Python numbers,
`out=`, gradients in one argument only, and what is refused.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from beside_torch import failure, grad_of, same

INF, NAN = math.inf, math.nan
UNARY = (
    "airy_ai", "bessel_j0", "bessel_j1", "bessel_y0", "bessel_y1", "digamma", "entr", "erf",
    "erfc", "erfcx", "erfinv", "exp2", "expit", "expm1", "gammaln", "i0", "i0e", "i1", "i1e",
    "log1p", "log_ndtr", "logit", "modified_bessel_i0", "modified_bessel_i1",
    "modified_bessel_k0", "modified_bessel_k1", "ndtr", "ndtri", "psi", "round",
    "scaled_modified_bessel_k0", "scaled_modified_bessel_k1", "sinc", "spherical_bessel_j0",
)  # fmt: skip
POLYNOMIALS = (
    "chebyshev_polynomial_t", "chebyshev_polynomial_u", "chebyshev_polynomial_v",
    "chebyshev_polynomial_w", "hermite_polynomial_h", "hermite_polynomial_he",
    "laguerre_polynomial_l", "legendre_polynomial_p", "shifted_chebyshev_polynomial_t",
    "shifted_chebyshev_polynomial_u", "shifted_chebyshev_polynomial_v",
    "shifted_chebyshev_polynomial_w",
)  # fmt: skip
DIFFERENTIABLE = (
    "digamma", "entr", "erf", "erfc", "erfcx", "erfinv", "exp2", "expit", "expm1", "gammaln",
    "i0", "i0e", "i1", "i1e", "log1p", "log_ndtr", "logit", "ndtr", "ndtri", "sinc",
)  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_argument_over_the_whole_line(name: str) -> None:
    def program(torch: Any) -> Any:
        function = getattr(torch.special, name)
        edges = [0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, 1e-30, -1e-30, 100.0, -100.0, 0.3]
        line = np.concatenate([np.linspace(-15, 15, 121), np.linspace(0.01, 0.99, 21), edges])
        found = []
        for dtype in (torch.float64, torch.float32):
            found.append(function(torch.tensor(line, dtype=dtype)))
        out = torch.empty(3)
        function(torch.tensor([0.25, 0.5, 0.75]), out=out)
        if name == "round":
            return [*found, out]
        return [*found, out, function(torch.tensor([1, 2])), function(torch.tensor(True))]

    same(program)()


@same
def test_derivatives_of_first_and_second_order(torch: Any) -> Any:
    found = []
    for name in DIFFERENTIABLE:
        x = torch.tensor([0.1, 0.45, 0.8], dtype=torch.float64, requires_grad=True)
        y = getattr(torch.special, name)(x)
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((first * first).sum(), x)
        found += [first, second]
    return found


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_polynomials_of_tensors_and_numbers(name: str) -> None:
    def program(torch: Any) -> Any:
        function = getattr(torch.special, name)
        # Of nan torch returns what its memory held.
        x = torch.tensor([-1.5, -1, -0.99, -0.2, 0, 0.5, 1, 1.2, INF], dtype=torch.float64)
        n = torch.tensor([[-2.0], [0], [1], [2.5], [7], [9], [40], [600], [NAN], [INF]])
        out = torch.empty(2)
        function(torch.tensor([0.5, 0.25]), 3, out=out)
        return [
            function(x, n.double()), function(x.float(), n[:6]), function(x, 5), function(0.3, n),
            function(2, torch.tensor([1, 2, 3])), out, function(torch.tensor(3), 2).dtype,
            failure(lambda: function(x.half(), 2)), failure(lambda: function(0.5, 2)),
            function(x.clone().requires_grad_(), 2).requires_grad,
        ]  # fmt: skip

    same(program)()


@same
def test_functions_of_two_arguments(torch: Any) -> Any:
    x = torch.tensor([0.0, 0.0, 1.5, 2, -1, NAN])
    y = torch.tensor([-1.0, 2, 3, -0.5, NAN, 1])
    s = torch.special
    found = [s.xlogy(x, y), s.xlog1py(x, y), s.xlogy(x, 2), s.xlogy(2, y), s.xlog1py(x, 2)]
    found += [s.xlog1py(3, y), s.xlog1py(torch.tensor([1, 2]), 1).dtype, torch.xlogy(x, y)]
    found += [s.zeta(torch.tensor([[0.5], [1], [2], [3.5], [30]]), y * 2.5), s.zeta(2, y)]
    found += [s.zeta(torch.tensor([2, 3]), 1), s.zeta(2.0, torch.tensor([-0.5, -1, -7.25]))]
    return found


@same
def test_incomplete_gammas(torch: Any) -> Any:
    edges = [0.0, 1e-8, 0.3, 1, 2.5, 20, 21, 150, 1e4, INF, NAN, -1]
    a = torch.tensor(edges, dtype=torch.float64)[:, None]
    x = torch.tensor([0.0, 1e-9, 0.2, 1, 1.2, 3, 19, 25, 160, 9990, INF, NAN, -1]).double()
    s = torch.special
    found = [s.gammainc(a, x), s.gammaincc(a, x), torch.igamma(a, x), torch.igammac(a, x)]
    b, y = torch.tensor([0.5, 2, 30]), torch.tensor([0.7, 1, 31]).requires_grad_()
    for function in (torch.igamma, torch.igammac, s.gammainc, s.gammaincc):
        (first,) = torch.autograd.grad(function(b, y).sum(), y, create_graph=True)
        found += [first, *torch.autograd.grad(first.sum(), y)]
    c = b.clone().requires_grad_()
    found += [failure(lambda: torch.autograd.grad(torch.igamma(c, y).sum(), c)[0].tolist())]
    found += [failure(lambda: torch.igamma(torch.tensor(1), torch.tensor(2)))]
    found += [b.clone().igamma_(y.detach()), b.clone().igammac_(y.detach()), b.igamma(b)]
    return [*found, b.igammac(b)]


@same
def test_gammas_and_their_kin(torch: Any) -> Any:
    x = torch.tensor([2.5, 3, 7.25, 100], requires_grad=True)
    s = torch.special
    found = [torch.polygamma(n, x) for n in range(5)] + [s.polygamma(2, x), x.polygamma(1)]
    found += [x.detach().clone().polygamma_(1), torch.mvlgamma(x, 3), s.multigammaln(x, 2)]
    found += [x.mvlgamma(2), x.detach().clone().mvlgamma_(2), torch.i0(x), x.i0()]
    found += [x.detach().clone().i0_(), grad_of(torch, torch.mvlgamma(x, 3), x)]
    found += [torch.polygamma(1, torch.tensor([-0.5, -1.25, 0, 0.2]))]
    found += [torch.polygamma(3, torch.tensor([-0.5, -1.25, 0, 0.2]))]
    zeta = s.zeta(torch.tensor([2.0, 3]), x[:2])
    found += [grad_of(torch, zeta, x), grad_of(torch, torch.polygamma(2, x), x)]
    found += [failure(lambda: torch.polygamma(-1, x), "negative n")]
    found += [failure(lambda: torch.mvlgamma(x, 0), "p has to be greater")]
    return [*found, failure(lambda: torch.mvlgamma(torch.tensor(True), 1), "boolean")]


@same
def test_names_of_torch_that_special_repeats(torch: Any) -> Any:
    x = torch.tensor([[0.5, 1.25], [-1, 2]])
    s = torch.special
    return [
        s.softmax(x, 0), s.softmax(x, dim=1, dtype=torch.float64), s.log_softmax(x, -1),
        s.logsumexp(x, 0), s.logsumexp(x, (0, 1), keepdim=True), s.round(x, decimals=1),
        s.logit(torch.tensor([0.1, 0.99]), eps=0.05), s.expit(x), s.sinc(x), s.psi(x),
        sorted(n for n in s.__all__),
    ]  # fmt: skip


@same
def test_dtypes_of_every_function(torch: Any) -> Any:
    dtypes = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
              torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64,
              torch.complex128)  # fmt: skip
    calls = {n: getattr(torch.special, n) for n in UNARY}
    for n in ("gammainc", "gammaincc", "xlog1py", "xlogy", "zeta", *POLYNOMIALS):
        calls[n] = lambda x, f=getattr(torch.special, n): f(x, x)  # noqa: B008
    calls["polygamma"] = lambda x: torch.special.polygamma(2, x)
    calls["trigamma"] = lambda x: torch.polygamma(1, x)
    calls["multigammaln"] = lambda x: torch.special.multigammaln(x, 2)
    calls |= {"gcd": lambda x: torch.gcd(x, x), "lcm": lambda x: torch.lcm(x, x)}
    calls["nextafter"] = lambda x: torch.nextafter(x, x)
    calls["frexp"] = lambda x: torch.frexp(x)[0]
    found = []
    for name, call in calls.items():
        for dtype in dtypes:
            x = torch.ones(2, dtype=dtype)
            refused = failure(lambda f=call, x=x: f(x))
            kind = str(call(x).dtype) if refused == "nothing was raised" else refused
            found.append(f"{name} {dtype} {kind}")
    return found


@same
def test_halves_are_computed_where_torch_does(torch: Any) -> Any:
    x = torch.tensor([0.5, 2, -1]).half()
    s = torch.special
    found = [s.i0(x).dtype, s.i0e(x).dtype, s.i1(x).dtype, s.i1e(x).dtype, s.ndtr(x).dtype]
    for name in ("bessel_j0", "erfcx", "ndtri", "log_ndtr", "zeta", "airy_ai"):
        more = (x,) if name == "zeta" else ()
        function = getattr(s, name)
        found.append(failure(lambda f=function, m=more: f(x, *m), "not implemented"))
    return [*found, failure(lambda: s.i0(x.to(torch.complex64)), "not implemented")]


# ------------------------------------------------------------------ divisors, neighbours, parts --
@same
def test_divisors_neighbours_and_parts(torch: Any) -> Any:
    a, b = torch.tensor([12, -18, 0, 7]), torch.tensor([8, 12, 5, 0])
    x, y = torch.tensor([1.0, -1, 0, INF]), torch.tensor([2.0, -2, 1, 0])
    m, e = torch.frexp(torch.tensor([8.5, -0.3, 0, 1024]))
    mantissa, exponent = torch.tensor([3.0]).frexp()
    return [
        torch.gcd(a, b), torch.lcm(a, b), a.gcd(b), a.lcm(b), a.clone().gcd_(b),
        a.clone().lcm_(b), torch.gcd(a.to(torch.uint8), b.to(torch.int16)).dtype,
        torch.nextafter(x, y) - x, x.nextafter(y), x.clone().nextafter_(y), m, e, mantissa,
        exponent, torch.nextafter(x.bfloat16(), y.bfloat16()).float(),
        torch.nextafter(x.half(), y.half()), torch.nextafter(x, y.double()).dtype,
        failure(lambda: torch.gcd(x, y)), failure(lambda: torch.lcm(a > 0, b > 0)),
        failure(lambda: torch.nextafter(a, b)), failure(lambda: torch.frexp(a), "floating-point"),
    ]  # fmt: skip


@same
def test_derivatives_of_neighbours_and_parts(torch: Any) -> Any:
    x = torch.tensor([1.0, 2, -3], requires_grad=True)
    y = torch.tensor([2.0, 2, 1], requires_grad=True)
    return [grad_of(torch, torch.nextafter(x, y), x, y), grad_of(torch, torch.frexp(x)[0], x)]


# --------------------------------------------------------------------------------------- windows --
@same
def test_windows_of_torch_signal(torch: Any) -> Any:
    w = torch.signal.windows
    found = []
    for n in (0, 1, 2, 5, 6):
        for sym in (True, False):
            found += [w.bartlett(n, sym=sym), w.blackman(n, sym=sym), w.cosine(n, sym=sym)]
            found += [w.exponential(n, sym=sym), w.exponential(n, tau=2.5, sym=sym)]
            found += [w.gaussian(n, sym=sym), w.gaussian(n, std=0.7, sym=sym)]
            found += [w.general_cosine(n, a=[0.4, 0.3, 0.2, 0.1], sym=sym), w.hann(n, sym=sym)]
            found += [w.general_hamming(n, alpha=0.6, sym=sym), w.hamming(n, sym=sym)]
            found += [w.kaiser(n, sym=sym), w.kaiser(n, beta=3.0, sym=sym), w.nuttall(n, sym=sym)]
    found += [w.exponential(5, center=1.5, sym=False), w.hann(4, dtype=torch.float64)]
    found += [w.gaussian(3, requires_grad=True).requires_grad, w.hann(4, device="cpu")]
    return found


@same
def test_windows_refuse_what_torch_refuses(torch: Any) -> Any:
    w = torch.signal.windows
    found = []
    for name in w.__all__:
        more = {"a": [1.0]} if name == "general_cosine" else {}
        window = getattr(w, name)
        found += [
            failure(lambda f=window, k=more: f(-1, **k), "non-negative window length"),
            failure(lambda f=window, k=more: f(3, dtype=torch.int64, **k), "float32 or float64"),
            failure(lambda f=window, k=more: f(3, dtype=torch.bfloat16, **k), "float32"),
            failure(lambda f=window, k=more: f(3, nonsense=1, **k), "unexpected keyword"),
        ]
    found += [failure(lambda: w.kaiser(3, beta=-1.0), "beta must be non-negative")]
    found += [failure(lambda: w.gaussian(3, std=0), "Standard deviation must be positive")]
    found += [failure(lambda: w.exponential(3, tau=-1), "Tau must be positive")]
    found += [failure(lambda: w.exponential(3, center=1), "Center must be None")]
    found += [failure(lambda: w.general_cosine(3, a=[]), "Coefficients cannot be empty")]
    return [*found, failure(lambda: w.general_cosine(3, a=1.0), "list/tuple")]


@same
def test_window_factories(torch: Any) -> Any:
    found = []
    for n in (0, 1, 4, 7):
        for periodic in (True, False):
            found += [torch.bartlett_window(n, periodic), torch.blackman_window(n, periodic)]
            found += [torch.hann_window(n, periodic), torch.hamming_window(n, periodic=periodic)]
            found += [torch.hamming_window(n, periodic, 0.6, 0.3)]
            found += [torch.kaiser_window(n, periodic), torch.kaiser_window(n, periodic, beta=5.0)]
    found += [torch.hann_window(3, dtype=torch.float64, requires_grad=True).requires_grad]
    found += [failure(lambda: torch.hann_window(-1), "non-negative window_length")]
    found += [failure(lambda: torch.hann_window(3, dtype=torch.int64), "floating point dtypes")]
    return [*found, failure(lambda: torch.kaiser_window(3, dtype=torch.complex64))]
