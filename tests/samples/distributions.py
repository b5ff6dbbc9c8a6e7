"""Inputs for draws with tensors as parameters (only what is not a number) and their gradients."""

from samples import FLOATS, Strided, call, samples

_DRAWN = {"values": False, "grad": False,
          "reason": "random; test_distributions.py compares the numbers"}  # fmt: skip


@samples("poisson", dtypes=("float16", "bfloat16", *FLOATS), **_DRAWN)
@samples("_standard_gamma", "_sample_dirichlet", dtypes=FLOATS, **_DRAWN)
def _drawn(make):
    return [call(make(3, 4, low=0.5)), call(make(0, 2)), call(Strided(make(2, 3, low=0.5)))]


@samples("binomial", dtypes=FLOATS, **_DRAWN)
def _binomial(make):
    return [call(make(3, 4, low=1), make(3, 4, low=0, high=1)), call(make(0), make(0))]


@samples("_von_mises", dtypes=("float64",), **_DRAWN)
def _von_mises(make):
    return [call(make(3), make(3, low=1), make(3, low=1), [2, 3])]


@samples("_standard_gamma_grad", dtypes=FLOATS, grad=False, reason="torch has no second order")
def _standard_gamma_grad(make):
    alpha = make(40, low=0.25, high=14)
    return [
        call(alpha, make(40, low=0.25, high=20)),
        call(alpha, alpha),
        call(make(0), make(0)),
        call(make(low=1), make(low=1)),
    ]


@samples(
    "_dirichlet_grad",
    dtypes=FLOATS,
    rtol=1e-4,
    atol=1e-6,
    grad=False,
    reason="torch has no second order; its series are taken in single precision",
)
def _dirichlet_grad(make):
    alpha = make(60, low=0.25, high=14)
    x = make(60, low=0.0625, high=0.9375)
    return [call(x, alpha, alpha + make(60, low=0.25, high=14)), call(make(0), make(0), make(0))]
