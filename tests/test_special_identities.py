"""What special functions satisfy whatever anybody computed: identities, to nearly float64's end.

torch 2.13's J and Y err by up to 9e-7 between arguments of 4 and 10, its Ai by 3e-6 below -2.09;
ours do not, so beside torch they could be held to no less. Numbers are of https://dlmf.nist.gov.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import farspan
import numpy as np
import pytest

LINE = np.concatenate([np.linspace(0.01, 40, 4001), np.geomspace(40, 1e4, 300)])


@pytest.fixture(autouse=True)
def session() -> Iterator[Any]:
    with farspan.connect("local:") as s:
        yield s


def special(name: str) -> Callable[..., np.ndarray[Any, Any]]:
    """Return the function of float64 arrays."""

    def call(*args: Any) -> np.ndarray[Any, Any]:
        tensors = [farspan.tensor(np.asarray(a, np.float64)) for a in args]
        return getattr(farspan.special, name)(*tensors).numpy()

    return call


def test_wronskian_of_bessel_functions_is_exact() -> None:
    """10.5.2: J1 Y0 - J0 Y1 = 2 / (pi x)."""
    j0, j1, y0, y1 = (special(f"bessel_{n}")(LINE) for n in ("j0", "j1", "y0", "y1"))
    np.testing.assert_allclose((j1 * y0 - j0 * y1) * LINE, 2 / math.pi, rtol=1e-10)


def test_wronskian_of_modified_bessel_functions_is_exact() -> None:
    """10.28.2: I0 K1 + I1 K0 = 1 / x, here with the exponentials taken out."""
    i0, i1 = special("i0e")(LINE), special("i1e")(LINE)
    k0, k1 = (special(f"scaled_modified_bessel_{n}")(LINE) for n in ("k0", "k1"))
    np.testing.assert_allclose((i0 * k1 + i1 * k0) * LINE, 1, rtol=1e-13)


@pytest.mark.parametrize("name", ["bessel_j0", "bessel_y0"])
def test_bessel_functions_solve_their_equation(name: str) -> None:
    """10.2.1 for order 0: x w'' + w' + x w = 0, w' being minus the function of order 1."""
    x = np.polynomial.chebyshev.chebpts1(48) * 5 + 7.1  # from 2.1 to 12.1, over both formulas
    order_one = np.polynomial.Chebyshev.fit(x, special(name.replace("0", "1"))(x), 47)
    slope = order_one.deriv()(x)
    np.testing.assert_allclose(x * slope + order_one(x), x * special(name)(x), atol=1e-10)


@pytest.mark.parametrize("middle", [-9.0, -3.0, 0.0, 2.0, 4.0])
def test_airys_function_solves_its_equation(middle: float) -> None:
    """9.2.1: w'' = x w; on both sides of where one formula takes over from another."""
    x = np.polynomial.chebyshev.chebpts1(24) * 1.5 + middle
    fitted = np.polynomial.Chebyshev.fit(x, special("airy_ai")(x), 23)
    np.testing.assert_allclose(fitted.deriv(2)(x), x * fitted(x), atol=1e-10)


def test_incomplete_gammas_recur_and_add_up() -> None:
    """8.8.5: P(a + 1, x) = P(a, x) - x^a exp(-x) / Gamma(a + 1), from series to expansion."""
    a = np.geomspace(0.01, 500, 80)[:, None]
    x = a * np.linspace(0.02, 3, 90)
    front = np.exp(a * np.log(x) - x - special("gammaln")(a + 1))
    lower, upper = special("gammainc"), special("gammaincc")
    np.testing.assert_allclose(lower(a + 1, x), lower(a, x) - front, atol=1e-13)
    np.testing.assert_allclose(upper(a + 1, x), upper(a, x) + front, rtol=1e-10, atol=1e-290)
    np.testing.assert_allclose(lower(a, x) + upper(a, x), 1, rtol=1e-15)


def test_zeta_sheds_its_first_term() -> None:
    """25.11.3: zeta(s, q) = zeta(s, q + 1) + q^-s, for negative q too."""
    zeta = special("zeta")
    s, q = np.linspace(1.05, 30, 60)[:, None], np.linspace(0.1, 20, 90)
    np.testing.assert_allclose(zeta(s, q), zeta(s, q + 1) + q**-s, rtol=1e-13)
    s, q = np.arange(2.0, 12)[:, None], -np.linspace(0.3, 9.7, 48)
    np.testing.assert_allclose(zeta(s, q), zeta(s, q + 1) + q**-s, rtol=1e-9, atol=1e-9)


def test_quantiles_undo_probabilities() -> None:
    x = np.linspace(-37, 5, 2001)
    np.testing.assert_allclose(special("ndtri")(special("ndtr")(x)), x, rtol=1e-9)
    tails = special("log_ndtr")(x)
    np.testing.assert_allclose(tails, np.log(special("ndtr")(x)), rtol=1e-13, atol=1e-15)
    p = np.geomspace(1e-300, 0.5, 400)
    np.testing.assert_allclose(special("ndtr")(special("ndtri")(p)), p, rtol=1e-11)


def test_scaled_error_function_is_accurate_out_to_infinity() -> None:
    """7.12.1: x sqrt(pi) erfcx(x) goes to 1 as 1 - 1 / (2 x^2)."""
    x = np.geomspace(1e3, 1e300, 200)
    scaled = x * math.sqrt(math.pi) * special("erfcx")(x)
    np.testing.assert_allclose(scaled, 1 - 0.5 / x / x, rtol=1e-11)
    x = np.linspace(-5, 5, 501)
    expected = np.exp(x * x) * np.vectorize(math.erfc)(x)
    np.testing.assert_allclose(special("erfcx")(x), expected, rtol=1e-13)


@pytest.mark.parametrize("kind", "tuvw")
def test_chebyshev_polynomials_agree_on_both_sides_of_the_angle(kind: str) -> None:
    """18.9.1: p(n+1) = 2 x p(n) - p(n-1), where degrees go over from recurrence to angles."""
    x, n = np.linspace(-0.99, 0.99, 67), np.arange(1.0, 30)[:, None]
    p = special(f"chebyshev_polynomial_{kind}")
    np.testing.assert_allclose(p(x, n + 1), 2 * x * p(x, n) - p(x, n - 1), atol=1e-11)
    shifted = special(f"shifted_chebyshev_polynomial_{kind}")
    np.testing.assert_allclose(shifted((x + 1) / 2, n), p(x, n), atol=1e-11)


def test_a_degree_beyond_the_recurrences_bound_is_no_error_where_none_of_it_is_run() -> None:
    x = farspan.tensor([-0.9, 0.0, 0.3, 1.0, 2.5])
    found = farspan.special.chebyshev_polynomial_t(x, 20_000).tolist()
    angles = [math.cos(20_000 * math.acos(each)) for each in x[:4].double().tolist()]
    assert found[:4] == pytest.approx(angles, abs=1e-2)
    assert not math.isfinite(found[4])
    with pytest.raises(ValueError, match="a step a degree"):
        farspan.special.legendre_polynomial_p(x[:4], 20_000).tolist()
