"""kl_divergence of every pair that torch has a formula for, with gradients, and the registry."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch as oracle
from beside_torch import failure, grad_of, plain, same

_POSITIVE = np.array([0.5, 1.5, 4.0])
_REAL = np.array([-0.75, 0.25, 1.5])
_INSIDE = np.array([0.25, 0.5, 0.9])
_SIMPLEX = np.array([[0.5, 0.25, 0.25], [0.0, 0.75, 0.25]])
_OTHER_SIMPLEX = np.array([[0.0, 0.5, 0.5], [0.125, 0.75, 0.125]])
_FACTOR = np.array([[1.5, 0, 0], [0.5, 1, 0], [-0.25, 0.5, 2]])

#: class -> two sets of parameters, for p and for q; the bounds of Uniform meet all cases
PARAMETERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Bernoulli": ({"probs": np.array([0.0, 0.5, 1.0])}, {"probs": np.array([0.25, 0.0, 0.9])}),
    "Beta": ({"concentration1": _POSITIVE, "concentration0": _POSITIVE[::-1].copy()},
             {"concentration1": _POSITIVE + 1, "concentration0": _POSITIVE}),
    "Binomial": ({"total_count": 5, "probs": _INSIDE}, {"total_count": 5, "probs": _INSIDE / 2}),
    "Categorical": ({"probs": _SIMPLEX}, {"probs": _OTHER_SIMPLEX}),
    "Cauchy": ({"loc": _REAL, "scale": _POSITIVE}, {"loc": -_REAL, "scale": _POSITIVE + 1}),
    "ContinuousBernoulli": ({"probs": _INSIDE}, {"probs": _INSIDE / 2}),
    "Dirichlet": ({"concentration": _SIMPLEX + 1}, {"concentration": _OTHER_SIMPLEX + 0.5}),
    "Exponential": ({"rate": _POSITIVE}, {"rate": _POSITIVE[::-1].copy()}),
    "Gamma": ({"concentration": _POSITIVE + 1, "rate": _POSITIVE},
              {"concentration": _POSITIVE, "rate": _POSITIVE[::-1].copy()}),
    "Geometric": ({"probs": _INSIDE}, {"probs": _INSIDE / 2}),
    "Gumbel": ({"loc": _REAL, "scale": _POSITIVE}, {"loc": -_REAL, "scale": _POSITIVE + 1}),
    "HalfNormal": ({"scale": _POSITIVE}, {"scale": _POSITIVE + 1}),
    "Laplace": ({"loc": _REAL, "scale": _POSITIVE}, {"loc": -_REAL, "scale": _POSITIVE + 1}),
    "LowRankMultivariateNormal": (
        {"loc": _REAL, "cov_factor": _FACTOR[:, :1], "cov_diag": _POSITIVE},
        {"loc": -_REAL, "cov_factor": _FACTOR[:, :2], "cov_diag": _POSITIVE + 1}),
    "MultivariateNormal": ({"loc": np.stack([_REAL, -_REAL]), "scale_tril": _FACTOR},
                           {"loc": -_REAL, "covariance_matrix": _FACTOR @ _FACTOR.T * 2}),
    "Normal": ({"loc": _REAL, "scale": _POSITIVE}, {"loc": -_REAL, "scale": _POSITIVE + 1}),
    "OneHotCategorical": ({"probs": _SIMPLEX}, {"probs": _OTHER_SIMPLEX}),
    "Pareto": ({"scale": _POSITIVE, "alpha": _POSITIVE * 1.5},
               {"scale": np.array([0.25, 2.0, 4.0]), "alpha": _POSITIVE}),
    "Poisson": ({"rate": _POSITIVE}, {"rate": _POSITIVE + 1}),
    "Uniform": ({"low": np.array([0.25, 0.5, -1.0]), "high": np.array([0.5, 0.75, 3.0])},
                {"low": np.array([-1.0, 0.0, 0.5]), "high": np.array([2.0, 1.0, 4.0])}),
    "LogNormal": ({"loc": _REAL, "scale": _POSITIVE}, {"loc": -_REAL, "scale": _POSITIVE + 1}),
    "Chi2": ({"df": _POSITIVE * 2}, {"df": _POSITIVE + 1}),
}  # fmt: skip
_KEYS = [(p.__name__, q.__name__) for p, q in oracle.distributions.kl._KL_REGISTRY]
PAIRS = [
    *[(p, q) for p, q in _KEYS if p in PARAMETERS and q in PARAMETERS],
    ("LogNormal", "LogNormal"), ("Chi2", "Chi2"), ("Chi2", "Normal"),
]  # fmt: skip


def make(t: Any, name: str, which: int, side: int) -> Any:
    given = {
        k: t.tensor(v, requires_grad=True) if isinstance(v, np.ndarray) else v
        for k, v in PARAMETERS[name][which].items()
    }
    leaves = [v for v in given.values() if isinstance(v, t.Tensor)]
    return (getattr(t.distributions, name)(**given), leaves)[side] if side < 2 else (given, leaves)


def test_every_pair_is_here() -> None:
    apart = {"ExponentialFamily", "Independent", "TransformedDistribution"}
    assert {n for pair in _KEYS for n in pair} - apart <= set(PARAMETERS)
    ours = __import__("farspan").distributions.kl._KL_REGISTRY
    found = [(p.__name__, q.__name__) for p, q in ours if "farspan" in p.__module__ + q.__module__]
    assert sorted(x for x in found if x in _KEYS) == sorted(_KEYS)


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_divergences_and_gradients(p: str, q: str) -> None:
    def program(torch: Any) -> Any:
        results = []
        for first, second in ((0, 1), (1, 0)):
            of_p, leaves_p = make(torch, p, first, 2)
            of_q, leaves_q = make(torch, q, second, 2)
            d = torch.distributions
            divergence = d.kl_divergence(getattr(d, p)(**of_p), getattr(d, q)(**of_q))
            results.append(divergence)
            if divergence.requires_grad:
                found = grad_of(torch, divergence, *leaves_p, *leaves_q)
                finite = [x is not None and bool(torch.isfinite(x).all()) for x in found]
                results.append([x for x, good in zip(found, finite, strict=True) if good])
        return results

    same(program)()


@same
def test_pairs_without_a_formula_and_of_the_users_own(torch):
    d = torch.distributions
    p, q = d.Normal(0.0, 1.0), d.VonMises(0.0, torch.tensor(1.0))

    class Mine(d.Normal):
        pass

    @d.register_kl(Mine, d.Normal)
    def mine(p: Any, q: Any) -> Any:
        return p.loc * 0 + 7

    @d.kl.register_kl(d.Normal, Mine)
    def other(p: Any, q: Any) -> Any:
        return p.loc * 0 + 8

    x = Mine(0.0, 1.0)
    three = d.Binomial(3, torch.tensor(0.5))
    return [
        failure(lambda: d.kl_divergence(p, q), "No KL(p || q) is implemented for p type Normal"),
        d.kl_divergence(x, p), d.kl_divergence(p, x), plain(d.kl_divergence(p, p)),
        failure(lambda: d.register_kl(3, d.Normal)),
        d.kl_divergence(d.Binomial(5, torch.tensor(0.5)), three),
        failure(lambda: d.kl_divergence(three, d.Binomial(5, torch.tensor(0.5))), "total_count"),
        failure(lambda: d.kl_divergence(
            d.MultivariateNormal(torch.zeros(2), torch.eye(2)),
            d.MultivariateNormal(torch.zeros(3), torch.eye(3))), "event shapes"),
        failure(lambda: d.kl_divergence(
            d.Independent(d.Normal(torch.zeros(2), 1.0), 1),
            d.Independent(d.Normal(torch.zeros(2), 1.0), 0))),
        failure(lambda: d.kl_divergence(d.Bernoulli(0.5), p), "exponential families"),
        failure(lambda: d.kl_divergence(d.LogNormal(0.0, 1.0), d.Gumbel(0.0, 1.0))),
    ]  # fmt: skip


def test_an_ambiguous_pair_is_warned_of() -> None:
    import farspan

    d = farspan.distributions

    class First(d.Normal):
        pass

    class Second(First):
        pass

    d.register_kl(First, d.Normal)(lambda p, q: 1)
    d.register_kl(d.Normal, First)(lambda p, q: 2)
    with pytest.warns(RuntimeWarning, match="Ambiguous kl_divergence"):
        d.kl_divergence(Second(0.0, 1.0), Second(0.0, 1.0))
    for pair in itertools.product((First, d.Normal), repeat=2):
        if First in pair:
            d.kl._KL_REGISTRY.pop(pair, None)
