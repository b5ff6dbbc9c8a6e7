"""How gamma and Dirichlet numbers move with their parameters: pathwise gradients.

A draw x of a distribution with cdf F(x; a) has the pathwise gradient -(dF/da) / (dF/dx) (Figurnov
et al., 2018). Here are torch's approximations of it, region by region, over whole arrays; the
constants of its rational fits are data, from ATen's Distributions.h. No state, no randomness.
"""

from __future__ import annotations

from typing import Any

from . import special

# ----------------------------------------------------------------- gradients of gamma numbers --
#: exp(p / q) with p, q cubic in log(a) whose coefficients are quadratic in log(x / a).
_GAMMA_FIT = (
    (0.16009398, -0.094634809, 0.025146376, -0.0030648343, 1, 0.32668115, 0.10406089, 0.0014179084),
    (0.53487893, 0.1298071, 0.065735949, -0.0015649758, 0.16639465, 0.020070113, -0.0035938915,
     -0.00058392623),
    (0.040121004, -0.0065914022, -0.0026286047, -0.0013441777, 0.017050642, -0.0021309326,
     0.00085092367, -1.5247877e-07),
)  # fmt: skip


def standard_gamma_grad(xp: Any, alpha: Any, x: Any) -> Any:
    """Return d x / d alpha for numbers x drawn from Gamma(alpha, 1)."""
    alpha, x = xp.broadcast_arrays(alpha.astype(xp.float64), x.astype(xp.float64))
    out = _gamma_fit(xp, alpha, x)
    for where, formula in (
        (alpha > 8, _gamma_saddle),
        ((alpha > 8) & (0.9 * alpha <= x) & (x <= 1.1 * alpha), _gamma_centre),
        (x < 0.8, _gamma_near_zero),
    ):
        if bool(where.any()):
            out[where] = formula(xp, alpha[where], x[where])
    return out


def _gamma_near_zero(xp: Any, alpha: Any, x: Any) -> Any:
    """By Taylor's series of the cdf."""
    first, second = 1 / alpha, 1 / (alpha * alpha)
    numerator = xp.ones_like(x)
    for i in range(1, 6):
        numerator = numerator * -x / i
        below = alpha + i
        first = first + numerator / below
        second = second + numerator / (below * below)
    power = x**alpha
    density = x ** (alpha - 1) * xp.exp(-x)
    slope = (xp.log(x) - special.digamma(xp, alpha)) * power * first - power * second
    result = -slope / density
    return xp.where(xp.isnan(result), 0.0, result)


def _gamma_centre(xp: Any, alpha: Any, x: Any) -> Any:
    """By Rice's saddle point expansion, near x = alpha, where the one below is singular."""
    top = 1440 * alpha**2 + 6 * x * (53 - 120 * x) - 65 * x * x / alpha + alpha * (107 + 3600 * x)
    return (1 + 24 * alpha * (1 + 12 * alpha)) * top / (1244160 * alpha**4)


def _gamma_saddle(xp: Any, alpha: Any, x: Any) -> Any:
    root = xp.sqrt(8 * alpha)
    log = xp.log(x / alpha)
    tail = (x - alpha - alpha * log) ** -1.5
    both = root / (alpha - x) + xp.where(x < alpha, -tail, tail)
    inner = log * both - xp.sqrt(2 / alpha) * (alpha + x) / (alpha - x) ** 2
    stirling = 1 + 1 / (12 * alpha) * (1 + 1 / (24 * alpha))
    return -stirling * x * inner / root


def _gamma_fit(xp: Any, alpha: Any, x: Any) -> Any:
    u, v = xp.log(x / alpha), xp.log(alpha)
    c = [c0 + u * (c1 + u * c2) for c0, c1, c2 in zip(*_GAMMA_FIT, strict=True)]
    p = c[0] + v * (c[1] + v * (c[2] + v * c[3]))
    q = c[4] + v * (c[5] + v * (c[6] + v * c[7]))
    return xp.exp(p / q)


# ------------------------------------------------------------- gradients of Dirichlet numbers --
#: p and q of a rational correction: [power of u][power of a] -> cubic in b; see `_beta_fit`.
_BETA_FIT = (
    (((1.003668233, -0.01061107488, -0.0657888334, 0.01201642863),
      (0.6336835991, -0.3557432599, 0.05486251648, -0.001465281033),
      (-0.03276231906, 0.004474107445, 0.002429354597, -0.0001557569013)),
     ((0.221950385, -0.3187676331, 0.01799915743, 0.01074823814),
      (-0.2951249643, 0.06219954479, 0.01535556598, 0.001550077057),
      (0.02155310298, 0.004170831599, 0.001292462449, 6.976601077e-05)),
     ((-0.05980841433, 0.008441916499, 0.01085618172, 0.002319392565),
      (0.02911413504, 0.01400243777, -0.002721828457, 0.000751041181),
      (0.005900514878, -0.001936558688, -9.495446725e-06, 5.385558597e-05))),
    (((1, -0.02924021934, -0.04438342661, 0.007285809825),
      (0.6357567472, -0.3473456711, 0.05454656494, -0.002407477521),
      (-0.03301322327, 0.004845219414, 0.00231480583, -0.0002307248149)),
     ((0.5925320577, -0.1757678135, 0.01505928619, 0.000564515273),
      (0.1014815858, -0.06589186703, 0.01272886114, -0.0007316646956),
      (-0.007258481865, 0.001096195486, 0.0003934994223, -4.12701925e-05)),
     ((0.06469649321, -0.0236701437, 0.002902096474, -5.896963079e-05),
      (0.001925008108, -0.002869809258, 0.0008000589141, -6.063713228e-05),
      (-0.0003477407336, 6.959756487e-05, 1.097287507e-05, -1.650964693e-06))),
)  # fmt: skip


def dirichlet_grad(xp: Any, x: Any, alpha: Any, total: Any) -> Any:
    """Return d x / d alpha over 1 - x, for x drawn from Beta(alpha, total - alpha)."""
    x, alpha, total = xp.broadcast_arrays(*[v.astype(xp.float64) for v in (x, alpha, total)])
    beta = total - alpha
    edge = total * x * (1 - x)
    out = _beta_fit(xp, x, alpha, beta)
    for where, formula in (
        ((alpha > 6) & (beta > 6), _beta_saddle),
        ((x >= 0.5) & (edge < 0.75), _beta_near_one),
        ((x <= 0.5) & (edge < 2.5), _beta_near_zero),
    ):
        if bool(where.any()):
            out[where] = formula(xp, x[where], alpha[where], beta[where])
    return out


def _beta_near_zero(xp: Any, x: Any, alpha: Any, beta: Any) -> Any:
    """By Taylor's series of the cdf in x."""
    factor = special.digamma(xp, alpha) - special.digamma(xp, alpha + beta) - xp.log(x)
    numerator = xp.ones_like(x)
    series = numerator / alpha * (factor + 1 / alpha)
    for i in range(1, 11):
        numerator = numerator * (i - beta) * x / i
        series = series + numerator / (alpha + i) * (factor + 1 / (alpha + i))
    result = x * (1 - x) ** -beta * series
    return xp.where(xp.isnan(result), 0.0, result)


def _beta_near_one(xp: Any, x: Any, alpha: Any, beta: Any) -> Any:
    """By Taylor's series in y = 1 - x, in which alpha is the second parameter."""
    y = 1 - x
    factor = special.digamma(xp, alpha + beta) - special.digamma(xp, alpha)
    numerator = falling = xp.ones_like(x)
    slope = xp.zeros_like(x)
    series = factor / beta
    for i in range(1, 9):
        numerator = numerator * -y / i
        slope = slope * (alpha - i) + falling
        falling = falling * (alpha - i)
        series = series + numerator / (beta + i) * (slope + factor * falling)
    result = x ** (1 - alpha) * series
    return xp.where(xp.isnan(result), 0.0, result)


def _beta_saddle(xp: Any, x: Any, alpha: Any, beta: Any) -> Any:
    """By Rice's saddle point expansion; near the mean, where it is singular, by a polynomial."""
    total = alpha + beta
    mean = alpha / total
    deviation = xp.sqrt(alpha * beta / (total + 1)) / total
    centre = xp.abs(x - mean) <= 0.1 * deviation
    poly = 47 * x * beta**4 + alpha * (
        (43 + 20 * (16 + 27 * beta) * x) * beta**3
        + alpha * (
            3 * (59 + 180 * beta - 90 * x) * beta**2
            + alpha * (
                (453 + 1620 * beta * (1 - x) - 455 * x) * beta
                + alpha * 8 * (1 - x) * (135 * beta - 11)
            )
        )
    )  # fmt: skip
    over = (1 + 12 * alpha) * (1 + 12 * beta) / (total * total)
    near = over / (1 - x) * poly / (12960 * alpha**3 * beta**2 * (1 + 12 * total))

    def stirling(z: Any) -> Any:
        return 1 + 1 / (12 * z) + 1 / (288 * z * z)

    distance = alpha * (x - 1) + beta * x
    first = (2 * alpha**2 * (x - 1) + alpha * beta * (x - 1) - x * beta**2) / (
        xp.sqrt(2 * alpha / beta) * total**1.5 * distance**2
    )
    logs = xp.log(alpha / (total * x))
    base = beta * xp.log(beta / (total * (1 - x))) + alpha * logs
    tail = xp.where(x < mean, base**-1.5, -(base**-1.5))
    rest = 0.5 * logs * (xp.sqrt(8 * alpha * beta / total) / distance + tail)
    scale = -x / xp.sqrt(2 * alpha * beta / total)
    far = stirling(alpha) * stirling(beta) / stirling(total) * scale * (first + rest)
    return xp.where(centre, near, far)


def _beta_fit(xp: Any, x: Any, alpha: Any, beta: Any) -> Any:
    """By an analytic approximation times a rational correction."""
    total = alpha + beta
    u = xp.log(x)
    a = xp.log(alpha) - u
    b = xp.log(total) - a
    p, q = [
        sum(
            u**i * a**j * (c[0] + b * (c[1] + b * (c[2] + b * c[3])))
            for i, row in enumerate(table)
            for j, c in enumerate(row)
        )
        for table in _BETA_FIT
    ]
    return p / q * x * (special.digamma(xp, total) - special.digamma(xp, alpha)) / beta
