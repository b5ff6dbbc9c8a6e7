"""Every distribution beside torch: densities, moments, quantiles, draws of one seed, gradients.

A row of TABLE makes a distribution from leaves, and a value to score. Each property is compared
where torch has it; where torch raises, we raise the same kind of error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from beside_torch import failure, grad_of, plain, same

SEED = 20250111
_RNG = np.random.default_rng(3)
_REAL = np.round(_RNG.normal(size=(3, 2)) * 64).astype("float32") / 64
_POSITIVE = np.abs(_REAL) + 0.25
_INSIDE = np.round(_RNG.uniform(0.1, 0.9, (3, 2)) * 64).astype("float32") / 64
_COUNTS = np.array([[0, 1], [2, 5], [3, 4]], "float32")
_BITS = np.array([[0, 1], [1, 1], [0, 0]], "float32")
_SIMPLEX = np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]], "float32")
_ONE_HOT = np.array([[0, 1, 0], [1, 0, 0]], "float32")
_FACTOR = np.array([[1.5, 0, 0], [0.5, 1, 0], [-0.25, 0.5, 2]], "float32")
_COVARIANCE = _FACTOR @ _FACTOR.T
_CORRELATION = np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 0.6, 0.8]], "float32")
_ANGLES = np.array([[0.5, -2.0], [3.0, 0.0], [1.0, -1.0]], "float32")

#: name -> (class, parameters (arrays become leaves, those in a tuple constants), value)
TABLE: dict[str, tuple[str, dict[str, Any], Any]] = {
    "Bernoulli, probs": ("Bernoulli", {"probs": _INSIDE}, _BITS),
    "Bernoulli, logits": ("Bernoulli", {"logits": _REAL}, _BITS),
    "Bernoulli of a number": ("Bernoulli", {"probs": 0.25}, _BITS),
    "Beta": ("Beta", {"concentration1": _POSITIVE, "concentration0": _POSITIVE + 1}, _INSIDE),
    "Beta of numbers": ("Beta", {"concentration1": 2.0, "concentration0": 3}, _INSIDE),
    "Binomial": ("Binomial", {"total_count": 5, "probs": _INSIDE}, _COUNTS),
    "Binomial, many": ("Binomial", {"total_count": 80, "logits": _REAL}, _COUNTS),
    "Categorical, probs": ("Categorical", {"probs": _SIMPLEX}, np.array([2.0, 0.0], "float32")),
    "Categorical, logits": ("Categorical", {"logits": _REAL}, np.array([0, 1, 1])),
    "Cauchy": ("Cauchy", {"loc": _REAL, "scale": _POSITIVE}, _REAL * 2),
    "Chi2": ("Chi2", {"df": _POSITIVE * 4}, _POSITIVE),
    "ContinuousBernoulli": ("ContinuousBernoulli", {"probs": _INSIDE}, _INSIDE[::-1].copy()),
    "ContinuousBernoulli, half": ("ContinuousBernoulli", {"logits": _REAL * 1e-3}, _INSIDE),
    "Dirichlet": ("Dirichlet", {"concentration": _SIMPLEX * 8}, _SIMPLEX[::-1].copy()),
    "Dirichlet, low": ("Dirichlet", {"concentration": _SIMPLEX}, _SIMPLEX),
    "Exponential": ("Exponential", {"rate": _POSITIVE}, _POSITIVE),
    "FisherSnedecor": ("FisherSnedecor", {"df1": _POSITIVE * 3, "df2": _POSITIVE * 5}, _POSITIVE),
    "Gamma": ("Gamma", {"concentration": _POSITIVE * 2, "rate": _POSITIVE}, _POSITIVE),
    "Gamma, large": ("Gamma", {"concentration": _POSITIVE * 40, "rate": 2.0}, _POSITIVE * 10),
    "GeneralizedPareto": (
        "GeneralizedPareto",
        {"loc": _REAL, "scale": _POSITIVE, "concentration": _INSIDE}, _REAL + _POSITIVE,
    ),
    "GeneralizedPareto, 0": (
        "GeneralizedPareto",
        {"loc": 0.0, "scale": _POSITIVE, "concentration": 0.0}, _POSITIVE,
    ),
    "Geometric, probs": ("Geometric", {"probs": _INSIDE}, _COUNTS),
    "Geometric, logits": ("Geometric", {"logits": _REAL}, _COUNTS),
    "Gumbel": ("Gumbel", {"loc": _REAL, "scale": _POSITIVE}, _REAL * 2),
    "HalfCauchy": ("HalfCauchy", {"scale": _POSITIVE}, _POSITIVE[::-1].copy()),
    "HalfNormal": ("HalfNormal", {"scale": _POSITIVE}, _POSITIVE[::-1].copy()),
    "InverseGamma": (
        "InverseGamma", {"concentration": _POSITIVE * 2, "rate": _POSITIVE}, _POSITIVE,
    ),
    "Kumaraswamy": (
        "Kumaraswamy", {"concentration1": _POSITIVE + 1, "concentration0": _POSITIVE + 1}, _INSIDE,
    ),
    "LKJCholesky": ("LKJCholesky", {"dim": 3, "concentration": 1.5}, _CORRELATION),
    "Laplace": ("Laplace", {"loc": _REAL, "scale": _POSITIVE}, _REAL * 2),
    "LogNormal": ("LogNormal", {"loc": _REAL, "scale": _POSITIVE}, _POSITIVE),
    "LogisticNormal": (
        "LogisticNormal", {"loc": _REAL[:2], "scale": _POSITIVE[:2]}, _SIMPLEX,
    ),
    "LowRankMultivariateNormal": (
        "LowRankMultivariateNormal",
        {"loc": _SIMPLEX, "cov_factor": _REAL, "cov_diag": _POSITIVE[:, 0]}, _SIMPLEX[::-1].copy(),
    ),
    "Multinomial": (
        "Multinomial", {"total_count": 6, "probs": _SIMPLEX}, _COUNTS.reshape(2, 3) % 3,
    ),
    "MultivariateNormal, factor": (
        "MultivariateNormal", {"loc": _SIMPLEX, "scale_tril": _FACTOR}, _SIMPLEX[::-1].copy(),
    ),
    "MultivariateNormal, covariance": (
        "MultivariateNormal", {"loc": _SIMPLEX[0], "covariance_matrix": _COVARIANCE}, _SIMPLEX,
    ),
    "MultivariateNormal, precision": (
        "MultivariateNormal", {"loc": _SIMPLEX[0], "precision_matrix": _COVARIANCE}, _SIMPLEX,
    ),
    "MultivariateNormal, a batch of factors": (
        "MultivariateNormal",
        {"loc": _SIMPLEX[0], "scale_tril": np.stack([_FACTOR, 2 * _FACTOR])}, _SIMPLEX,
    ),
    "NegativeBinomial": ("NegativeBinomial", {"total_count": 3.5, "probs": _INSIDE}, _COUNTS),
    "NegativeBinomial, logits": ("NegativeBinomial", {"total_count": 2, "logits": _REAL}, _COUNTS),
    "Normal": ("Normal", {"loc": _REAL, "scale": _POSITIVE}, _REAL * 2),
    "Normal of numbers": ("Normal", {"loc": 0.5, "scale": 2}, _REAL),
    "OneHotCategorical": ("OneHotCategorical", {"probs": _SIMPLEX}, _ONE_HOT),
    "OneHotCategorical, straight through": (
        "OneHotCategoricalStraightThrough", {"logits": _SIMPLEX}, _ONE_HOT,
    ),
    "Pareto": ("Pareto", {"scale": _POSITIVE, "alpha": _POSITIVE * 3}, _POSITIVE + 1),
    "Poisson": ("Poisson", {"rate": _POSITIVE * 10}, _COUNTS),
    "RelaxedBernoulli": (
        "RelaxedBernoulli", {"temperature": np.float32(0.5), "probs": _INSIDE}, _INSIDE,
    ),
    "RelaxedOneHotCategorical": (
        "RelaxedOneHotCategorical", {"temperature": np.float32(0.75), "logits": _SIMPLEX}, _SIMPLEX,
    ),
    "StudentT": ("StudentT", {"df": _POSITIVE * 3, "loc": _REAL, "scale": _POSITIVE}, _REAL * 2),
    "Uniform": ("Uniform", {"low": _REAL - 1, "high": _REAL + 2}, _REAL),
    "VonMises": ("VonMises", {"loc": _ANGLES, "concentration": _POSITIVE * 4}, _REAL),
    "Weibull": ("Weibull", {"scale": _POSITIVE, "concentration": _POSITIVE + 1}, _POSITIVE),
    "Wishart": ("Wishart", {"df": 4.5, "scale_tril": (_FACTOR,)}, _COVARIANCE),
    "Wishart, covariance": (
        "Wishart", {"df": np.array([4.0, 6.0], "float32"), "covariance_matrix": _COVARIANCE},
        _COVARIANCE,
    ),
}  # fmt: skip


def make(t: Any, name: str, dtype: str = "float64") -> tuple[Any, list[Any], Any]:
    """Return the distribution, its leaves and a value."""
    cls, given, value = TABLE[name]
    if cls == "GeneralizedPareto":
        dtype = "float32"  # torch compares the concentration with a float32 0
    parameters = {}
    for k, v in given.items():
        if isinstance(v, tuple):
            parameters[k] = t.tensor(v[0].astype(dtype))
        elif isinstance(v, (np.ndarray, np.generic)):
            parameters[k] = t.tensor(v.astype(dtype), requires_grad=True)
        else:
            parameters[k] = v
    leaves = [p for p in parameters.values() if isinstance(p, t.Tensor) and p.requires_grad]
    if any(isinstance(p, t.Tensor) for p in parameters.values()) and value.dtype.kind == "f":
        value = value.astype(dtype)
    return getattr(t.distributions, cls)(**parameters), leaves, t.tensor(value)


def outcome(action: Any) -> Any:
    """Return what action returns, or the kind of error that says that there is no such thing."""
    try:
        return action()
    except NotImplementedError:
        return "not implemented"
    except RuntimeError:
        return "not possible"


def with_gradients(t: Any, y: Any, leaves: list[Any]) -> Any:
    if isinstance(y, str) or not y.requires_grad:
        return y
    return [y, outcome(lambda: plain(list(grad_of(t, y, *leaves))))]


every = pytest.mark.parametrize("name", TABLE)


@every
def test_scores_and_their_gradients(name: str) -> None:
    def program(torch: Any) -> Any:
        d, leaves, value = make(torch, name)
        probability = torch.tensor(np.array([[0.25, 0.5]], "float32"))
        return [
            with_gradients(torch, outcome(action), leaves)
            for action in (
                lambda: d.log_prob(value),
                lambda: d.cdf(value),
                lambda: d.icdf(probability),
                lambda: d.entropy(),
                lambda: d.perplexity(),
            )
        ]

    same(program)()


@every
def test_moments(name: str) -> None:
    def program(torch: Any) -> Any:
        d, leaves, _ = make(torch, name)
        kinds = ("mean", "mode", "variance", "stddev")
        return [with_gradients(torch, outcome(lambda k=k: getattr(d, k)), leaves) for k in kinds]

    same(program)()


@every
def test_what_it_says_of_itself(name: str) -> None:
    def program(torch: Any) -> Any:
        d, _, value = make(torch, name)
        shapes = [tuple(d.batch_shape), tuple(d.event_shape), tuple(d._extended_shape((2,)))]
        facts = [d.has_rsample, d.has_enumerate_support, sorted(d.arg_constraints)]
        support = outcome(lambda: d.support)
        facts += [support.is_discrete, support.event_dim, support.check(value)]
        return [shapes, facts, repr(d), outcome(lambda: d.enumerate_support())]

    same(program)()


@every
def test_one_seed_draws_the_same(name: str) -> None:
    def program(torch: Any) -> Any:
        d, leaves, _ = make(torch, name, "float32")
        torch.manual_seed(SEED)
        drawn = [d.sample(), d.sample((3,)), d.sample((2, 9))]
        drawn.append(with_gradients(torch, outcome(lambda: d.rsample((5,))), leaves))
        return [drawn, [x.requires_grad for x in drawn[:3]], torch.random.get_rng_state()]

    same(program, rtol=1e-4)()  # gradients of float32 through exp and log, by several libraries


@every
def test_expanding(name: str) -> None:
    def program(torch: Any) -> Any:
        d, _, _ = make(torch, name)
        wide = d.expand((4, *d.batch_shape))
        torch.random.manual_seed(SEED)
        kinds = ("mean", "variance")
        drawn = wide.sample((2,))
        return [
            tuple(wide.batch_shape), tuple(wide.event_shape), type(wide) is type(d), repr(wide),
            drawn, wide.log_prob(drawn),
            [outcome(lambda k=k: getattr(wide, k)) for k in kinds],
        ]  # fmt: skip

    same(program)()


# ------------------------------------------------------------------------- made of distributions --
@same
def test_independent(torch):
    d = torch.distributions
    loc = torch.tensor(_REAL, requires_grad=True)
    x = d.Independent(d.Normal(loc, 1.0), 1)
    torch.manual_seed(SEED)
    drawn = x.rsample((2,))
    y = x.expand((5, 3))
    bits = d.Independent(d.Bernoulli(torch.tensor(_INSIDE)), 0)
    return [
        tuple(x.batch_shape), tuple(x.event_shape), repr(x), drawn, x.log_prob(drawn), x.entropy(),
        x.mean, x.mode, x.variance, x.sample(), x.has_rsample, x.has_enumerate_support,
        tuple(y.batch_shape), y.log_prob(loc), x.support.event_dim, x.support.check(loc),
        bits.enumerate_support(), bits.has_enumerate_support,
        failure(lambda: x.enumerate_support(), "cartesian product"),
        failure(lambda: d.Independent(d.Normal(loc, 1.0), 3), "reinterpreted_batch_ndims"),
        d.kl_divergence(x, d.Independent(d.Normal(0.0, torch.ones(3, 2)), 1)),
    ]  # fmt: skip


@same
def test_mixtures(torch):
    d = torch.distributions
    weights = torch.tensor(_SIMPLEX[0], requires_grad=True)
    parts = d.Normal(torch.tensor(_REAL[:, 0]), torch.tensor(_POSITIVE[:, 0]))
    x = d.MixtureSameFamily(d.Categorical(weights), parts)
    vectors = d.Independent(d.Normal(torch.tensor(_REAL), 1.0 + torch.tensor(_POSITIVE)), 1)
    y = d.mixture_same_family.MixtureSameFamily(d.Categorical(weights), vectors)
    torch.manual_seed(SEED)
    wide = x.expand((2,))
    values = torch.tensor(_REAL[:2, 0])
    return [
        x.log_prob(values), grad_of(torch, x.log_prob(values), weights)[0], x.cdf(values), x.mean,
        x.variance, x.sample((4,)), repr(x), y.sample((2,)), y.mean, y.variance,
        y.log_prob(torch.tensor(_REAL)), tuple(y.event_shape), wide.sample(), wide.log_prob(values),
        repr(x.support), x.support.check(values), repr(x.mixture_distribution),
        repr(x.component_distribution), outcome(lambda: x.rsample()),
        failure(lambda: d.MixtureSameFamily(parts, parts), "Categorical"),
        failure(lambda: d.MixtureSameFamily(d.Categorical(weights), 3), "Component"),
        failure(lambda: d.MixtureSameFamily(d.Categorical(weights[:2]), parts), "does not equal"),
    ]  # fmt: skip


@same
def test_transformed_distributions(torch):
    d = torch.distributions
    loc = torch.tensor(_REAL, requires_grad=True)
    steps = [d.ExpTransform(), d.AffineTransform(1.0, torch.tensor([2.0, -3.0]))]
    x = d.TransformedDistribution(d.Normal(loc, 1.0), steps)
    torch.manual_seed(SEED)
    drawn = x.rsample((2,))
    vector = d.TransformedDistribution(d.Normal(loc, 1.0), d.StickBreakingTransform())
    none = d.TransformedDistribution(d.Normal(loc, 1.0), [])
    wide = x.expand((4, 3, 2))
    return [
        drawn, grad_of(torch, drawn, loc)[0], x.log_prob(drawn.detach()), x.cdf(drawn.detach()),
        x.icdf(torch.tensor(_INSIDE)), x.has_rsample, repr(x), repr(x.support.event_dim),
        tuple(vector.batch_shape), tuple(vector.event_shape), vector.log_prob(vector.sample()),
        repr(none.support), none.log_prob(loc), wide.sample(), tuple(wide.batch_shape),
        failure(lambda: d.TransformedDistribution(d.Normal(0.0, 1.0), 3), "Transform or list"),
        failure(lambda: d.TransformedDistribution(d.Normal(0.0, 1.0), [3]), "list of Transforms"),
        failure(lambda: d.TransformedDistribution(
            d.Normal(0.0, 1.0), d.StickBreakingTransform()), "size at least"),
    ]  # fmt: skip


@same
def test_the_base_of_a_relaxed_distribution(torch):
    d = torch.distributions
    temperature = torch.tensor(0.5)
    logits = torch.tensor(_REAL, requires_grad=True)
    x = d.relaxed_bernoulli.LogitRelaxedBernoulli(temperature, logits=logits)
    y = d.relaxed_categorical.ExpRelaxedCategorical(temperature, logits=logits)
    torch.manual_seed(SEED)
    results = []
    for z in (x, y):
        drawn = z.rsample((2,))
        results += [
            drawn, grad_of(torch, drawn, logits)[0], z.log_prob(drawn), z.probs, z.logits,
            tuple(z.param_shape), repr(z), tuple(z.expand((2, 3)).batch_shape)
            if z is y else tuple(z.expand((2, 3, 2)).batch_shape), repr(z.support),
        ]  # fmt: skip
    relaxed = d.RelaxedBernoulli(temperature, logits=logits)
    return [*results, relaxed.temperature, relaxed.probs, relaxed.logits]


# ---------------------------------------------------------------------------------------- errors --
@same
def test_bad_parameters_and_values_are_refused_in_torchs_words(torch):
    d = torch.distributions

    def words(action: Any) -> Any:
        try:
            action()
        except ValueError as e:
            return str(e)
        return "nothing was raised"

    bad = torch.tensor([1.0, -1.0])
    normal = d.Normal(torch.zeros(2), 1.0)
    return [
        words(action)
        for action in (
            lambda: d.Normal(0.0, bad),
            lambda: d.Normal(torch.tensor([0.0, float("nan")]), bad),
            lambda: d.Bernoulli(2.0),
            lambda: d.Uniform(1.0, 0.0),
            lambda: d.Beta(-1.0, 2.0),
            lambda: d.Categorical(torch.tensor([0.5, -0.5, 1.0])),
            lambda: d.MultivariateNormal(torch.zeros(2), -torch.eye(2)),
            lambda: d.Geometric(torch.tensor([0.0, 0.5])),
            lambda: d.Poisson(bad),
            lambda: d.ContinuousBernoulli(torch.tensor([1.5]), validate_args=True),
            lambda: d.Wishart(1.0, torch.eye(3)),
            lambda: d.LKJCholesky(1),
            lambda: d.Dirichlet(torch.tensor(1.0)),
            lambda: d.Categorical(torch.tensor(1.0)),
            lambda: d.Bernoulli(),
            lambda: d.Binomial(3, torch.tensor(0.5), torch.tensor(0.5)),
            lambda: d.MultivariateNormal(torch.tensor(0.0), torch.eye(2)),
            lambda: d.MultivariateNormal(torch.zeros(2)),
            lambda: d.MultivariateNormal(torch.zeros(2), torch.ones(2)),
            lambda: d.LowRankMultivariateNormal(torch.zeros(2), torch.ones(3, 1), torch.ones(2)),
            lambda: d.Normal("a", 1.0),
            lambda: normal.log_prob(torch.tensor([float("nan"), 0.0])),
            lambda: normal.log_prob(torch.zeros(3)),
            lambda: normal.log_prob(3.0),
            lambda: d.Bernoulli(0.5).log_prob(torch.tensor([0.5])),
            lambda: d.Dirichlet(torch.ones(3)).log_prob(torch.ones(2)),
            lambda: d.Gamma(1.0, 1.0).cdf(torch.tensor(-1.0)),
        )
    ]


@same
def test_checks_can_be_switched_off(torch):
    d = torch.distributions
    d.Distribution.set_default_validate_args(False)
    try:
        loose = d.Normal(torch.zeros(2), -torch.ones(2)).log_prob(torch.zeros(2))
    finally:
        d.Distribution.set_default_validate_args(True)
    other = d.Normal(torch.zeros(2), -torch.ones(2), validate_args=False)
    return [
        loose, other.log_prob(torch.zeros(2)), other._validate_args, other.expand((3, 2)).mean,
        failure(lambda: d.Distribution.set_default_validate_args(3)),
        failure(lambda: d.Normal(0.0, -1.0), "constraint"),
    ]  # fmt: skip


@same
def test_distributions_of_the_users_own(torch):
    d = torch.distributions

    class Shifted(d.Distribution):
        arg_constraints = {"loc": d.constraints.real}  # noqa: RUF012
        support = d.constraints.real

        def __init__(self, loc: Any) -> None:
            self.loc = loc
            super().__init__(loc.shape)

        def rsample(self, sample_shape: Any = ()) -> Any:
            return self.loc + torch.zeros(self._extended_shape(sample_shape))

        @property
        def variance(self) -> Any:
            return torch.ones(2) * 4

    class Named(d.Normal):
        def __init__(self, name: str) -> None:
            self.name = name
            super().__init__(torch.zeros(2), 1.0)

    class Family(d.ExponentialFamily):
        arg_constraints = {"rate": d.constraints.positive}  # noqa: RUF012
        _mean_carrier_measure = 0

        def __init__(self, rate: Any) -> None:
            self.rate = rate
            super().__init__(rate.shape)

        @property
        def _natural_params(self) -> Any:
            return (-self.rate,)

        def _log_normalizer(self, x: Any) -> Any:
            return -torch.log(-x)

    x = Shifted(torch.tensor([1.0, 2.0]))
    p, q = Family(torch.tensor([1.0, 2.0])), Family(torch.tensor([3.0, 0.5]))
    return [
        x.sample((3,)), x.sample_n(2), x.stddev, repr(x), tuple(x.batch_shape),
        [outcome(getattr(x, n)) for n in ("entropy", "perplexity", "enumerate_support")],
        [outcome(lambda n=n: getattr(x, n)(torch.zeros(2))) for n in ("log_prob", "cdf", "icdf")],
        [outcome(lambda n=n: getattr(x, n)) for n in ("mean", "mode")],
        outcome(lambda: x.expand((2, 2))),
        failure(lambda: Named("a").expand((2, 2)), "custom .expand()"), repr(Named("a")),
        failure(lambda: Shifted(torch.tensor([float("nan")])), "Shifted(loc:"),
        p.entropy(), d.kl_divergence(p, q), failure(lambda: d.kl_divergence(p, d.Normal(0.0, 1.0))),
    ]  # fmt: skip


# --------------------------------------------------------------------------------- loose ends --
@same
def test_what_follows_from_matrices_and_probabilities(torch):
    d = torch.distributions
    full = d.MultivariateNormal(torch.zeros(3), torch.tensor(_COVARIANCE))
    low = d.LowRankMultivariateNormal(
        torch.zeros(3), torch.tensor(_REAL), torch.tensor(_POSITIVE[:, 0])
    )
    wishart = d.Wishart(5.0, precision_matrix=torch.tensor(_COVARIANCE))
    names = ("covariance_matrix", "precision_matrix", "scale_tril")
    fresh = low.loc.double().new(2, 3)
    matrices = [getattr(x, n) for x in (full, low, wishart) for n in names]
    probabilities = torch.tensor(_SIMPLEX)
    of_categories = [
        x
        for y in (
            d.Categorical(probabilities), d.OneHotCategorical(probabilities),
            d.Multinomial(3, probabilities), d.Bernoulli(probabilities),
            d.Binomial(3, probabilities), d.NegativeBinomial(3, probabilities),
            d.ContinuousBernoulli(probabilities),
        )
        for x in (y.probs, y.logits, tuple(y.param_shape))
    ]  # fmt: skip
    pareto = d.GeneralizedPareto(0.0, 1.0, torch.tensor([0.5, -0.25]))
    x = torch.tensor([0.5, 1.5])
    return [
        matrices, of_categories, str(fresh.dtype), tuple(fresh.shape), fresh.new([1.5, 2.0]),
        d.Bernoulli(probabilities)._new([2.0]), pareto.log_cdf(x), pareto.log_survival_function(x),
        d.OneHotCategorical(probabilities).enumerate_support(expand=False),
        d.Categorical(probabilities).enumerate_support(expand=False),
        d.Binomial(3, probabilities).enumerate_support(),
        outcome(lambda: d.Binomial(torch.tensor([1, 2]), torch.tensor([0.5, 0.5])).entropy()),
        d.Chi2(3.0).df, d.Bernoulli(0.5).mode,
    ]  # fmt: skip


@same
def test_the_utilities(torch):
    u = torch.distributions.utils
    x = torch.tensor(_REAL)

    class Lazy:
        calls = 0

        @u.lazy_property
        def value(self) -> Any:
            self.calls += 1
            return x * 2

    lazy = Lazy()
    again = [lazy.value, lazy.value]
    vector = torch.arange(6.0) + 1
    matrix = u.vec_to_tril_matrix(vector)
    return [
        u.broadcast_all(1.0, x), u.broadcast_all(1, 2.0), u.clamp_probs(torch.tensor([0.0, 1.0])),
        u.logits_to_probs(x), u.logits_to_probs(x, True), u.probs_to_logits(torch.tensor(_SIMPLEX)),
        u.probs_to_logits(torch.tensor(_SIMPLEX), is_binary=True), u.euler_constant,
        lazy.calls, again, matrix, u.tril_matrix_to_vec(matrix), u.tril_matrix_to_vec(matrix, -1),
        u.vec_to_tril_matrix(torch.stack([vector, vector]), -1),
        failure(lambda: u.vec_to_tril_matrix(torch.zeros(5)), "lower triangular"),
        failure(lambda: u.tril_matrix_to_vec(matrix, 5), "outside"),
        failure(lambda: u.broadcast_all("x")),
    ]  # fmt: skip


@same
def test_the_random_functions_under_them(torch):
    torch.manual_seed(SEED)
    rate = torch.tensor(_POSITIVE * 20, requires_grad=True)
    drawn = torch.poisson(rate)
    alpha = torch.tensor(_POSITIVE * 3, requires_grad=True)
    gamma = torch._standard_gamma(alpha)
    generator = torch.Generator().manual_seed(3)
    return [
        drawn, torch.autograd.grad(drawn.sum(), rate)[0],
        torch.poisson(rate.detach().double(), generator=generator),
        torch.binomial(torch.full((50,), 30.0), torch.full((50,), 0.6)),
        torch.binomial(torch.full((50,), 8.0), torch.full((50,), 0.25), generator),
        gamma, grad_of(torch, gamma, alpha)[0], torch._sample_dirichlet(alpha.detach()),
        torch._standard_gamma_grad(alpha, gamma).detach(), torch.igamma(alpha.detach(), rate),
        torch._dirichlet_grad(torch.tensor(_INSIDE), alpha, alpha + 1).detach(),
        torch.mvlgamma(alpha.detach() + 2, 3), torch.randn(3),
        grad_of(torch, alpha.detach().igamma(rate), rate)[0],
        failure(lambda: torch.binomial(rate, rate.double()), "Found dtype Double"),
        outcome(lambda: torch.mvlgamma(alpha, 0)),
        failure(lambda: torch.binomial(torch.ones(2).long(), torch.ones(2)), "count, got: Long"),
        torch.random.get_rng_state(),
    ]  # fmt: skip


def test_a_service_draws_and_differentiates_the_same(session: Any) -> None:
    import farspan
    import torch

    def program(t: Any) -> Any:
        d = t.distributions
        t.manual_seed(SEED)
        alpha = t.tensor(_POSITIVE * 2, requires_grad=True)
        drawn = [d.Gamma(alpha, 2.0).rsample(), d.Dirichlet(alpha).rsample((2,))]
        drawn += [d.VonMises(0.5, alpha).sample(), d.Binomial(30, t.tensor(_INSIDE)).sample()]
        return [*drawn, *grad_of(t, drawn[0] + drawn[1].sum(0), alpha)]

    for ours, theirs in zip(program(farspan), program(torch), strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-5)


def test_long_draws_come_in_pieces(monkeypatch: Any) -> None:
    from farspan.core import rejection
    from farspan.core.random import Generator

    count, rate = np.full((9, 5), 40.0), np.linspace(0, 30, 45).reshape(9, 5)
    calls = (
        lambda g: rejection.standard_gamma(g, rate), lambda g: rejection.poisson(g, rate),
        lambda g: rejection.binomial(g, count, rate / 30),
    )  # fmt: skip
    whole, pieces = Generator(3), Generator(3)
    for draw in calls:
        expected = draw(whole)
        monkeypatch.setattr(rejection, "_PIECE", 4)
        np.testing.assert_array_equal(draw(pieces), expected)
        monkeypatch.undo()
    np.testing.assert_array_equal(whole.get_state(), pieces.get_state())


def test_a_negative_rate_is_an_error_of_the_program() -> None:
    import farspan

    with farspan.connect("local:") as session:
        farspan.poisson(-farspan.ones(2))
        with pytest.raises(farspan.ProgramError, match="invalid Poisson rate"):
            session.synchronize()


@same
def test_torch_random_is_a_module(torch):
    r = torch.random
    r.manual_seed(4)
    before = r.get_rng_state()
    with r.fork_rng():
        inside = torch.randn(3)
    with torch.random.fork_rng(enabled=False):
        outside = torch.randn(3)
    r.set_rng_state(before)
    again = torch.randn(3)
    r.manual_seed(9)
    number = r.initial_seed()
    fresh = r.seed()
    return [
        inside, outside, again, number, fresh == r.initial_seed(), r.thread_safe_generator(),
        tuple(torch.zeros(3).random_(5).shape), r.default_generator is torch.default_generator,
    ]  # fmt: skip
