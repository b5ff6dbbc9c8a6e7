"""Programs that people write with torch.func, whole, beside torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from beside_torch import same


def drawn(t: Any, *shape: int, seed: int = 0) -> Any:
    values = np.random.default_rng(seed).uniform(-2, 2, shape)
    return t.tensor(values)


def parameters(net: Any) -> dict[str, Any]:
    return {k: v.detach().double() for k, v in net.named_parameters()}


@same
def test_learning_to_learn(t: Any) -> Any:
    """Model-agnostic meta-learning (Finn et al., 2017): a gradient through steps of gradients."""
    t.manual_seed(0)
    net = t.nn.Sequential(t.nn.Linear(1, 8), t.nn.ReLU(), t.nn.Linear(8, 1))
    params = parameters(net)

    def loss(p: Any, x: Any, y: Any) -> Any:
        return t.nn.functional.mse_loss(t.func.functional_call(net, p, (x,)), y)

    def adapted(p: Any, x: Any, y: Any) -> Any:
        g = t.func.grad(loss)(p, x, y)
        return loss({k: p[k] - 0.1 * g[k] for k in p}, x, y)

    x, y = drawn(t, 3, 5, 1), drawn(t, 3, 5, 1, seed=1)
    outer = t.func.grad(lambda p: t.vmap(adapted, in_dims=(None, 0, 0))(p, x, y).mean())(params)
    return [outer[k] for k in params]


@same
def test_neural_tangent_kernels_by_two_ways(t: Any) -> Any:
    t.manual_seed(0)
    net = t.nn.Sequential(t.nn.Linear(3, 4), t.nn.Tanh(), t.nn.Linear(4, 2))
    params = parameters(net)
    x = drawn(t, 3, 3)

    def f(p: Any, x: Any) -> Any:
        return t.func.functional_call(net, p, (x,))

    rows = t.vmap(t.func.jacrev(f), (None, 0))(params, x)
    contracted = t.stack(
        [t.einsum("naf,mbf->nmab", j, j) for j in (v.flatten(2) for v in rows.values())]
    ).sum(0)

    def of_pair(a: Any, b: Any) -> Any:
        pull = t.func.vjp(lambda p: f(p, a), params)[1]

        def push(v: Any) -> Any:
            return t.func.jvp(lambda p: f(p, b), (params,), pull(v))[1]

        return t.vmap(push)(t.eye(2, dtype=t.float64))

    implicit = t.vmap(t.vmap(of_pair, (None, 0)), (0, None))(x, x)
    return [contracted, implicit]


@same
def test_products_with_hessians_and_laplacians(t: Any) -> Any:
    x, v = drawn(t, 4), drawn(t, 4, seed=1)
    grad = t.func.grad

    def f(x: Any) -> Any:
        return (x.sin() ** 2).sum() * x[0]

    many = t.vmap(lambda v: t.func.jvp(grad(f), (x,), (v,))[1])(t.stack([v, v * 2]))
    laplacian = t.vmap(lambda x: t.func.hessian(f)(x).diagonal().sum())(drawn(t, 5, 4))
    return [t.func.jvp(grad(f), (x,), (v,))[1], t.func.vjp(grad(f), x)[1](v)[0], many, laplacian]


@same
def test_a_differential_equation_in_each_point(t: Any) -> Any:
    def u(x: Any) -> Any:
        return t.sin(x) * x**2

    du = t.func.grad(u)
    x = drawn(t, 6)
    return [t.vmap(u)(x), t.vmap(du)(x), t.vmap(t.func.grad(du))(x)]


@same
def test_hessian_of_a_classifiers_loss(t: Any) -> Any:
    t.manual_seed(0)
    net = t.nn.Sequential(t.nn.Linear(3, 3), t.nn.LayerNorm(3), t.nn.GELU(), t.nn.Linear(3, 2))
    params = parameters(net)
    x, y = drawn(t, 4, 3), t.tensor([0, 1, 1, 0])

    def loss(p: Any) -> Any:
        return t.nn.functional.cross_entropy(t.func.functional_call(net, p, (x,)), y)

    found = t.func.hessian(loss)(params)
    reverse = t.func.jacrev(t.func.jacrev(loss))(params)
    keys = sorted(params)
    return [[found[a][b], reverse[a][b]] for a in keys for b in keys]


@same
def test_types_promote_by_the_samples_dims(t: Any) -> Any:
    x = drawn(t, 5, 4).float()
    one = t.tensor(1.0, dtype=t.float64)
    return [
        t.vmap(lambda a: a * one)(x),
        t.vmap(lambda a: a.sum() * t.ones(2, dtype=t.float64))(x),
        t.vmap(lambda a: a.sum().double() * t.ones(2))(x),
        t.vmap(lambda a: a.sum() * one)(x),
        t.vmap(lambda a: t.where(a.sum() > 0, a.sum().double(), 0.0))(x),
    ]


@same
def test_a_training_loop_over_mapped_losses(t: Any) -> Any:
    w = t.nn.Parameter(t.ones(3, dtype=t.float64))
    opt = t.optim.SGD([w], lr=0.01)
    for step in range(3):
        opt.zero_grad()
        t.vmap(lambda a: (a * w).sum() ** 2)(drawn(t, 5, 3, seed=step)).mean().backward()
        opt.step()
    return [w]
