"""Transforms, constraints and their registries beside torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from beside_torch import failure, grad_of, same

_RNG = np.random.default_rng(5)
_X = np.round(_RNG.normal(size=(2, 3)) * 64) / 64
_POSITIVE = np.abs(_X) + 0.25
_MATRIX = np.round(_RNG.normal(size=(2, 3, 3)) * 64) / 64

#: name -> (a transform of the module, x)
TRANSFORMS: dict[str, tuple[Any, Any]] = {
    "abs": (lambda t, d: d.AbsTransform(), _X),
    "affine": (lambda t, d: d.AffineTransform(1.5, -2.0), _X),
    "affine of tensors": (
        lambda t, d: d.AffineTransform(t.ones(3).double(), t.arange(3.0).double() - 1.5), _X),
    "affine of events": (lambda t, d: d.AffineTransform(0.5, 3, event_dim=1), _X),
    "exp": (lambda t, d: d.ExpTransform(), _X),
    "log": (lambda t, d: d.ExpTransform().inv, _POSITIVE),
    "power": (lambda t, d: d.PowerTransform(t.tensor(-1.5).double()), _POSITIVE),
    "power of a number": (lambda t, d: d.PowerTransform(2), _POSITIVE),
    "sigmoid": (lambda t, d: d.SigmoidTransform(), _X),
    "softplus": (lambda t, d: d.SoftplusTransform(), _X),
    "tanh": (lambda t, d: d.TanhTransform(), _X),
    "softmax": (lambda t, d: d.SoftmaxTransform(), _X),
    "stick breaking": (lambda t, d: d.StickBreakingTransform(), _X),
    "lower cholesky": (lambda t, d: d.LowerCholeskyTransform(), _MATRIX),
    "positive definite": (lambda t, d: d.PositiveDefiniteTransform(), _MATRIX),
    "corr cholesky": (lambda t, d: d.CorrCholeskyTransform(), _X),
    "reshape": (lambda t, d: d.ReshapeTransform((3,), (1, 3)), _X),
    "identity": (lambda t, d: d.identity_transform, _X),
    "composed": (
        lambda t, d: d.ComposeTransform([d.ExpTransform(), d.AffineTransform(1, 2),
                                         d.StickBreakingTransform()]), _X),
    "composed, cached": (
        lambda t, d: d.ComposeTransform([d.TanhTransform(), d.ExpTransform()], cache_size=1), _X),
    "independent": (lambda t, d: d.IndependentTransform(d.ExpTransform(), 1), _X),
    "cat": (lambda t, d: d.CatTransform([d.ExpTransform(), d.TanhTransform()], -1, [1, 2]), _X),
    "cat of vectors": (
        lambda t, d: d.CatTransform([d.AffineTransform(0, 2, 1), d.ExpTransform()], 0), _X),
    "stack": (lambda t, d: d.StackTransform([d.ExpTransform(), d.TanhTransform()], 0), _X),
    "cdf": (lambda t, d: d.CumulativeDistributionTransform(d.Normal(0.5, 2.0)), _X),
}  # fmt: skip


def outcome(action: Any) -> Any:
    """Return what action returns, or the builtin class of what it raises."""
    try:
        return action()
    except (NotImplementedError, ValueError, AssertionError, RuntimeError) as e:
        return next(c.__name__ for c in type(e).__mro__ if c.__module__ == "builtins")


@pytest.mark.parametrize("name", TRANSFORMS)
def test_there_and_back(name: str) -> None:
    def program(torch: Any) -> Any:
        build, values = TRANSFORMS[name]
        t = build(torch, torch.distributions)
        x = torch.tensor(values, requires_grad=True)
        y = t(x)
        back = t.inv(y)
        jacobian = outcome(lambda: t.log_abs_det_jacobian(x, y))
        slopes = [grad_of(torch, v, x)[0] for v in (y, back, jacobian) if hasattr(v, "grad_fn")
                  and v.requires_grad]  # fmt: skip
        shapes = [
            outcome(lambda f=f: tuple(f(x.shape))) for f in (t.forward_shape, t.inverse_shape)
        ]
        cached = outcome(lambda: t.with_cache(1))
        if not isinstance(cached, str):
            kept = cached(x)
            cached = [cached.inv(kept) is x, cached.with_cache(1) is cached]
        return [
            y, back, jacobian, slopes, shapes, cached, repr(t), repr(t.inv), t.inv.inv is t,
            outcome(lambda: t.bijective), outcome(lambda: t.sign), outcome(lambda: t.event_dim),
            outcome(lambda: (t.domain.event_dim, t.codomain.event_dim)), t == t, t != t,
            t == torch.distributions.ExpTransform(),
            outcome(lambda: t.domain.check(x)), outcome(lambda: t.codomain.check(y)),
            outcome(lambda: t.inv.domain.event_dim),
            outcome(lambda: t.inv.log_abs_det_jacobian(y, x)),
        ]  # fmt: skip

    same(program)()


@same
def test_what_transforms_refuse_and_how_they_compare(torch):
    d = torch.distributions
    two = torch.tensor([2.0, 3.0])

    class Plain(d.transforms.Transform):
        domain = codomain = d.constraints.real

    plain = Plain()
    return [
        failure(lambda: d.ExpTransform(cache_size=2), "cache_size must be 0 or 1"),
        failure(lambda: d.ReshapeTransform((2, 3), (5,)), "different numbers"),
        failure(lambda: d.ReshapeTransform((3,), (1, 3)).forward_shape((2,)), "Shape mismatch"),
        failure(lambda: d.ReshapeTransform((3,), (1, 3)).forward_shape(()), "Too few"),
        failure(lambda: d.CorrCholeskyTransform().forward_shape((4,)), "flattened"),
        failure(lambda: d.CorrCholeskyTransform().inverse_shape((4, 3)), "square"),
        failure(lambda: d.StickBreakingTransform().forward_shape(()), "Too few"),
        failure(lambda: d.SoftmaxTransform().inverse_shape(()), "Too few"),
        failure(lambda: d.IndependentTransform(d.ExpTransform(), 2)(two), "Too few"),
        [outcome(action) for action in (
            lambda: plain(two), lambda: plain.inv(two), lambda: plain.sign,
            lambda: plain.log_abs_det_jacobian(two, two), lambda: d.StickBreakingTransform().sign,
            lambda: d.ComposeTransform([d.StickBreakingTransform(), d.ReshapeTransform((2,), (1, 2))
                                        ]).event_dim,
        )],
        d.AffineTransform(0, 2) == d.AffineTransform(0, 2),
        d.AffineTransform(0, two) == d.AffineTransform(0, two + 0),
        d.AffineTransform(0, 2) == d.AffineTransform(1, 2), d.AffineTransform(0, 2) == 3,
        d.PowerTransform(two) == d.PowerTransform(two + 0), d.PowerTransform(two) == 1,
        d.ComposeTransform([d.ExpTransform()]) == d.ComposeTransform([d.ExpTransform()]),
        d.ExpTransform().inv == d.ExpTransform().inv, d.ExpTransform() == d.TanhTransform(),
        d.AffineTransform(0, two).sign, d.AffineTransform(0, -2.5).sign,
        d.AffineTransform(0, 0).sign,
        plain == plain, plain == Plain(), d.AbsTransform() == d.AbsTransform(),
    ]  # fmt: skip


def _constraints(torch: Any) -> dict[str, Any]:
    c = torch.distributions.constraints
    return {
        "boolean": (c.boolean, [0.0, 1.0, 0.5]),
        "one_hot": (c.one_hot, [[0.0, 1.0], [1.0, 1.0], [0.5, 0.5]]),
        "integer_interval": (c.integer_interval(1, 3), [0.0, 1.0, 2.5, 3.0, 4.0]),
        "nonnegative_integer": (c.nonnegative_integer, [-1.0, 0.0, 1.5, 2.0]),
        "positive_integer": (c.positive_integer, [0.0, 1.0]),
        "real": (c.real, [float("nan"), float("inf"), 1.0]),
        "real_vector": (c.real_vector, [[float("nan"), 1.0], [2.0, 1.0]]),
        "positive": (c.positive, [0.0, 1.0]),
        "nonnegative": (c.nonnegative, [-1.0, 0.0]),
        "greater_than": (c.greater_than(2), [2.0, 3.0]),
        "greater_than_eq": (c.greater_than_eq(2.5), [2.0, 2.5]),
        "less_than": (c.less_than(2), [2.0, 1.0]),
        "interval": (c.interval(1, 2.0), [0.5, 1.0, 2.0, 3.0]),
        "half_open_interval": (c.half_open_interval(1, 2), [0.5, 1.0, 2.0]),
        "unit_interval": (c.unit_interval, [-1.0, 0.0, 1.0, 2.0]),
        "multinomial": (c.multinomial(3), [[1.0, 2.0], [2.0, 2.0], [-1.0, 2.0]]),
        "simplex": (c.simplex, [[0.5, 0.5], [0.5, 0.6], [-0.5, 1.5]]),
        "lower_triangular": (c.lower_triangular, [[[1.0, 0.0], [2.0, 3.0]], [[1.0, 1.0], [0, 1]]]),
        "lower_cholesky": (c.lower_cholesky, [[[1.0, 0.0], [2.0, 3.0]], [[-1.0, 0.0], [0.0, 1.0]]]),
        "corr_cholesky": (c.corr_cholesky, [[[1.0, 0.0], [0.6, 0.8]], [[1.0, 0.0], [1.0, 1.0]]]),
        "square": (c.square, [[1.0, 0.0]]),
        "symmetric": (c.symmetric, [[[1.0, 2.0], [2.0, 3.0]], [[1.0, 2.0], [0.0, 3.0]]]),
        "positive_definite": (c.positive_definite, [[[2.0, 1.0], [1.0, 2.0]], [[1, 2], [2, 1]]]),
        "positive_definite, one not symmetric": (
            c.positive_definite, [[[2.0, 1.0], [0.0, 2.0]], [[1.0, 2.0], [2.0, 1.0]]]),
        "positive_semidefinite": (
            c.positive_semidefinite, [[[1.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [2.0, 1.0]]]),
        "positive_definite, not square": (c.positive_definite, [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]),
        "cat": (c.cat([c.positive, c.boolean], dim=-1, lengths=[1, 2]), [[1.0, 0.0, 2.0]]),
        "stack": (c.stack([c.positive, c.real], dim=0), [[-1.0, 1.0], [-1.0, 1.0]]),
        "independent": (c.independent(c.positive, 1), [[1.0, -1.0], [1.0, 1.0]]),
        "mixture": (c.MixtureSameFamilyConstraint(c.positive), [1.0, -1.0]),
    }  # fmt: skip


@same
def test_constraints(torch):
    results = []
    for name, (constraint, values) in _constraints(torch).items():
        results.append([
            name, constraint.check(torch.tensor(values)), repr(constraint), constraint.is_discrete,
            constraint.event_dim, torch.distributions.constraints.is_dependent(constraint),
            isinstance(constraint, torch.distributions.constraints.Constraint),
        ])  # fmt: skip
    return results


@same
def test_constraints_that_need_an_instance(torch):
    c = torch.distributions.constraints

    class Bounded:
        @c.dependent_property(is_discrete=False, event_dim=2)
        def support(self) -> Any:
            return c.positive

    named = c.dependent(is_discrete=True, event_dim=1)
    vector = torch.zeros(2)
    return [
        repr(Bounded().support), Bounded.support.event_dim, Bounded.support.is_discrete,
        c.is_dependent(Bounded.support), c.is_dependent(c.dependent), named.event_dim,
        named.is_discrete, named(event_dim=3).event_dim, outcome(lambda: c.dependent.event_dim),
        outcome(lambda: c.dependent.is_discrete), outcome(lambda: c.dependent.check(vector)),
        outcome(lambda: c.independent(c.positive, 2).check(vector)),
        outcome(lambda: c.independent(3, 1)), outcome(lambda: c.independent(c.real, -1)),
        outcome(lambda: c.cat([3])), outcome(lambda: c.cat([c.real], lengths=[1, 2])),
        outcome(lambda: c.stack([3])), outcome(lambda: c.Constraint().check(vector)),
        outcome(lambda: c.MixtureSameFamilyConstraint(3)), repr(torch.distributions.Beta.support),
    ]  # fmt: skip


@same
def test_registries_of_transforms_into_constraints(torch):
    d = torch.distributions
    c = d.constraints
    x = torch.tensor(_X)
    results = []
    for constraint in (
        c.real, c.real_vector, c.positive, c.nonnegative, c.greater_than(2),
        c.greater_than_eq(-1.0),
        c.less_than(3.0), c.interval(-1.0, torch.tensor(2.0)), c.unit_interval, c.simplex,
        c.half_open_interval(0.0, 5.0), c.corr_cholesky, c.independent(c.positive, 1),
        c.cat([c.positive, c.unit_interval], -1, [1, 2]), c.stack([c.positive, c.real], 0),
        c.lower_cholesky, c.positive_definite, c.positive_semidefinite, c.boolean,
    ):  # fmt: skip
        matrix = constraint.event_dim == 2 and constraint is not c.corr_cholesky
        for registry in (d.biject_to, d.transform_to):
            t = outcome(lambda r=registry, k=constraint: r(k))
            if isinstance(t, str):
                results.append(t)
            else:
                y = t(torch.tensor(_MATRIX) if matrix else x)
                results.append([repr(t), y, constraint.check(y)])

    class Odd(c.Constraint):
        pass

    own = d.constraint_registry.ConstraintRegistry()
    own.register(Odd, lambda k: 5)

    @d.transform_to.register(Odd())
    def of_odd(k: Any) -> Any:
        return 6

    return [*results, own(Odd()), d.transform_to(Odd()), failure(lambda: d.biject_to(Odd())),
            failure(lambda: own.register(3, lambda k: 1))]  # fmt: skip
