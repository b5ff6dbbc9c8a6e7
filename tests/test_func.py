"""torch.func beside torch: gradients, Jacobians, functional modules, per-sample gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from beside_torch import failure, same


def drawn(t: Any, *shape: int, seed: int = 0) -> Any:
    values = np.random.default_rng(seed).uniform(-2, 2, shape).astype("float32")
    return t.tensor(values)


@same
def test_grad_of_numbers_trees_and_several_arguments(t: Any) -> Any:
    x, y = drawn(t, 4), drawn(t, 4, seed=1)
    grad = t.func.grad
    both = grad(lambda x, d: (x * d["a"]).sum(), argnums=(0, 1))(x, {"a": y})
    with_aux = grad(lambda x: ((x**3).sum(), x * 2), has_aux=True)(x)
    values = t.func.grad_and_value(lambda x: (x.sin().sum(), {"a": x + 1}), has_aux=True)(x)
    last = grad(lambda x, y: (x * y).sum(), argnums=-1)(x, y)
    return [both[0], both[1]["a"], with_aux, values[0], values[1][0], values[1][1]["a"], last]


@same
def test_grad_nests_without_mixing_levels(t: Any) -> Any:
    x, y = t.tensor(0.7), t.tensor(-1.3)
    grad = t.func.grad
    third = grad(grad(grad(t.sin)))(x)
    mixed = grad(lambda x: x * grad(lambda y: x * y)(y))(x)
    outer = x.clone().requires_grad_()
    inner = grad(lambda z: z**3)(outer)
    with t.no_grad():
        quiet = grad(lambda z: z**3)(outer)
    return [third, mixed, t.autograd.grad(inner, outer), quiet.requires_grad, inner.requires_grad]


@same
def test_grad_refuses(t: Any) -> Any:
    x = drawn(t, 3)
    grad = t.func.grad
    return [
        failure(lambda: grad(lambda x: x)(x), "scalar Tensor"),
        failure(lambda: grad(lambda x: 1.0)(x), "to return a Tensor"),
        failure(lambda: grad(lambda x: x.sum(), argnums=3)(x), "Got argnum=3"),
        failure(lambda: grad(lambda x: x.sum(), argnums=())(x), "non-empty"),
        failure(lambda: grad(lambda x: x.sum(), argnums=(0, 0))(x, x), "unique"),
        failure(lambda: grad(lambda x: x.sum(), has_aux=True)(x), "(output, aux)"),
        failure(lambda: grad(lambda x: x.sum())(x.long())),
        failure(lambda: grad(lambda x: x.sum().backward())(x), "functorch transform"),
        failure(lambda: t.func.vjp(lambda x: x > 0, x), "floating-point"),
        failure(lambda: t.func.vjp(lambda x: x, x)[1]((x, x)), "pytree structure"),
        failure(lambda: t.func.jvp(lambda x: x, x, x), "to be a tuple"),
        failure(lambda: t.func.jvp(lambda x: x, (x,), (x, x)), "same python structure"),
        failure(lambda: t.func.jvp(lambda x: t.ones(2), (x,), (x,), strict=True), "independent"),
        failure(lambda: t.func.jacrev(lambda x: x, chunk_size=0)(x), "greater than 0"),
        failure(lambda: t.func.functionalize(lambda x: x, remove="x")(x), "invalid argument"),
    ]


@same
def test_vjp_jvp_and_linearize(t: Any) -> Any:
    x, y = drawn(t, 4), drawn(t, 4, seed=1)
    made, pull = t.func.vjp(lambda x: {"a": x * 2, "b": (x**2).sum()}, x)
    pulled = pull({"a": y, "b": y.sum()})
    value, aux = t.func.vjp(lambda x: (x.sin(), x + 1), x, has_aux=True)[::2]
    pushed = t.func.jvp(lambda x, y: (x * y.sin(), x.sum()), (x, y), (y, x))
    with_aux = t.func.jvp(lambda x: (x.exp(), x), (x,), (y,), has_aux=True)
    line, push = t.func.linearize(lambda x: x.sin(), x)
    constant = t.func.jvp(lambda x: t.ones(2), (x,), (y,))
    return [made["a"], made["b"], pulled, value, aux, pushed, with_aux, line, push(y), constant]


@same
def test_jacobians_and_hessians(t: Any) -> Any:
    x, y = drawn(t, 3), drawn(t, 2, 2, seed=1)

    def f(x: Any, y: Any) -> Any:
        return {"a": x * y.sum(), "b": x.prod() * y}

    found = []
    for jacobian in (t.func.jacrev, t.func.jacfwd):
        both = jacobian(f, argnums=(0, 1))(x, y)
        found += [both["a"], both["b"], jacobian(t.tanh)(x)]
        found += list(jacobian(lambda x: (x**2, x), has_aux=True)(x))
    found.append(t.func.jacrev(lambda x: (x[:2], x.sum()), chunk_size=2)(x))
    found.append(t.func.hessian(lambda x: t.tanh(x).prod())(x))
    found.append(t.vmap(t.func.hessian(lambda x: t.tanh(x).prod()))(drawn(t, 4, 3)))
    found.append(t.vmap(t.func.jacfwd(t.tanh))(drawn(t, 4, 3)))
    refused = failure(lambda: t.func.jacrev(lambda x: x)(x + 0j), "complex")
    return [*found, refused]


@same
def test_jacobian_of_an_mlp_equals_its_rows(t: Any) -> Any:
    t.manual_seed(0)
    net = t.nn.Sequential(t.nn.Linear(3, 4), t.nn.Tanh(), t.nn.LayerNorm(4), t.nn.Linear(4, 2))
    params = {k: v.detach() for k, v in net.named_parameters()}
    x = drawn(t, 5, 3)

    def f(p: Any, x: Any) -> Any:
        return t.func.functional_call(net, p, (x,))

    by_weights = t.func.jacrev(f)(params, x[0])
    per_sample = t.vmap(t.func.jacrev(f), in_dims=(None, 0))(params, x)
    by_input = t.vmap(t.func.jacfwd(f, argnums=1), in_dims=(None, 0))(params, x)
    keys = sorted(params)
    return [[by_weights[k] for k in keys], [per_sample[k] for k in keys], by_input]


@same
def test_per_sample_gradients_of_a_convolutional_net(t: Any) -> Any:
    functional = t.nn.functional
    params = {"w": drawn(t, 2, 3, 3, 3), "b": drawn(t, 2, seed=1), "v": drawn(t, 3, 8, seed=2)}

    def loss(p: Any, x: Any, y: Any) -> Any:
        h = functional.conv2d(x[None], p["w"], p["b"]).relu()
        h = functional.max_pool2d(h, 2).flatten(1)
        return functional.cross_entropy(functional.linear(h, p["v"]), y[None])

    x, y = drawn(t, 4, 3, 6, 6, seed=3), t.tensor([1, 2, 0, 1])
    found = t.vmap(t.func.grad(loss), in_dims=(None, 0, 0))(params, x, y)
    one = t.func.grad(loss)(params, x[2], y[2])
    return [found[k] for k in params] + [(found[k][2] - one[k]).abs().max() < 1e-4 for k in params]


@same
def test_per_sample_gradients_through_embedding_norm_and_attention(t: Any) -> Any:
    t.manual_seed(0)
    table = t.nn.Embedding(7, 4, padding_idx=0)
    layer = t.nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    net = t.nn.Sequential(table, layer).double()
    params = {k: v.detach() for k, v in net.named_parameters()}

    def loss(p: Any, x: Any) -> Any:
        made = t.func.functional_call(net, p, (x[None],))
        return (made * t.arange(12, dtype=t.float64).view(1, 3, 4)).sum() * x.sum()

    x = t.tensor([[1, 0, 3], [4, 4, 6]])
    found = t.vmap(t.func.grad(loss), in_dims=(None, 0))(params, x)
    return [found[k] for k in sorted(params)]


@same
def test_ensembles_of_stacked_modules(t: Any) -> Any:
    t.manual_seed(0)
    nets = [t.nn.Sequential(t.nn.Linear(3, 4), t.nn.BatchNorm1d(4)).eval() for _ in range(3)]
    params, buffers = t.func.stack_module_state(nets)
    x = drawn(t, 5, 3)

    def call(p: Any, b: Any, x: Any) -> Any:
        return t.func.functional_call(nets[0], (p, b), (x,))

    made = t.vmap(call, in_dims=(0, 0, None))(params, buffers, x)
    grads = t.autograd.grad(made.pow(2).sum(), list(params.values()))
    kinds = [params["0.weight"].is_leaf, params["0.weight"].requires_grad]
    mixed = [nets[0], t.nn.Linear(3, 4).eval()]
    return [
        made, grads, kinds,
        failure(lambda: t.func.stack_module_state([]), "at least one model"),
        failure(lambda: t.func.stack_module_state(mixed), "same class"),
        failure(lambda: t.func.stack_module_state([nets[0], t.nn.Linear(3, 4)]), "same training"),
    ]  # fmt: skip


@same
def test_functional_call_swaps_ties_and_refuses(t: Any) -> Any:
    net = t.nn.Sequential(t.nn.Linear(2, 2), t.nn.Linear(2, 2))
    net[1].weight = net[0].weight
    ones, x = t.ones(2, 2), t.ones(2)
    zero = {"0.bias": t.zeros(2), "1.bias": t.zeros(2)}
    tied = t.func.functional_call(net, {"0.weight": ones, **zero}, (x,))
    both = t.func.functional_call(net, ({"0.weight": ones}, zero), x)
    stateless = t.nn.utils.stateless.functional_call(net, {"0.weight": ones, **zero}, (x,))
    bn = t.nn.BatchNorm1d(2)
    state = {k: v.clone() for k, v in bn.named_buffers()}
    t.func.functional_call(bn, state, (t.tensor([[1.0, 2.0], [3.0, 5.0]]),))

    def call(**kwargs: Any) -> Any:
        return lambda: t.func.functional_call(net, kwargs.pop("p"), (x,), **kwargs)

    return [
        tied, both, stateless, state["running_mean"], bn.running_mean,
        net[0].weight is net[1].weight,
        failure(call(p={"0.weight": ones, "1.weight": ones + 1}), "tied"),
        failure(call(p={"0.weight": ones}, strict=True), "Missing key(s)"),
        failure(call(p={"0.nothing": ones}, strict=True), "Unexpected key(s)"),
        failure(call(p=[zero, zero]), "multiple dictionaries"),
        failure(call(p=3), "to be a dict"),
    ]  # fmt: skip


@same
def test_batch_norm_without_running_statistics_is_vmapped(t: Any) -> Any:
    net = t.nn.Sequential(t.nn.BatchNorm2d(2))
    kept = failure(lambda: t.vmap(net)(drawn(t, 4, 3, 2, 2, 2)))
    t.func.replace_all_batch_norm_modules_(net)
    return [kept, t.vmap(net)(drawn(t, 4, 3, 2, 2, 2)), net[0].running_mean is None]


@same
def test_functionalize_debug_unwrap_and_rearrange(t: Any) -> Any:
    x = drawn(t, 2, 4, 3)

    def writes(x: Any) -> Any:
        y = x + 1
        y.view(-1).add_(1)
        return y

    seen = []
    t.vmap(lambda a: seen.append(t.func.debug_unwrap(a)) or a)(x)
    rearrange = t.func.rearrange
    return [
        t.func.functionalize(writes)(x), seen, t.func.debug_unwrap(x) is x,
        rearrange(x, "a (b c) d -> (a d) c b", b=2), rearrange(x, "a ... -> ... a"),
        rearrange(x, "a b c -> b () (c a)"), rearrange([x, x], "n a b c -> (n a) (b c)"),
        failure(lambda: rearrange(x, "a b -> b a")),
        failure(lambda: rearrange(x, "a b c -> a b d")),
    ]  # fmt: skip


@same
def test_gradients_of_many_seeds_at_once(t: Any) -> Any:
    x = drawn(t, 3).requires_grad_()
    y = t.tanh(x) * x
    v = drawn(t, 5, 3, seed=1)
    together = t.autograd.grad(y, x, v, is_grads_batched=True, retain_graph=True)
    mapped = t.vmap(lambda v: t.autograd.grad(y, x, v, retain_graph=True))(v)
    twice = t.autograd.grad(y, x, v, is_grads_batched=True, create_graph=True)[0]
    second = t.autograd.grad(twice.sum(), x, retain_graph=True)
    unused = t.autograd.grad(x * 2, (x, y), v, is_grads_batched=True, allow_unused=True)
    return [
        together, mapped, second, unused,
        failure(lambda: t.autograd.grad(y, x, v[:, :2], is_grads_batched=True), "batch dimension"),
        failure(lambda: t.autograd.grad(y, x, v[0], allow_unused=False, materialize_grads=True)),
        t.autograd.grad(x * 2, (x, v.requires_grad_()), v[0].detach(), materialize_grads=True),
    ]  # fmt: skip


@same
def test_functional_jacobians_by_each_strategy(t: Any) -> Any:
    functional = t.autograd.functional
    x, y = drawn(t, 3), drawn(t, 3, seed=1)

    def two(x: Any, y: Any) -> Any:
        return x * y, x.sum()

    found = []
    for options in ({}, {"vectorize": True}, {"vectorize": True, "strategy": "forward-mode"}):
        found.append(functional.jacobian(lambda x: t.tanh(x) * x.sum(), x, **options))
        found.append(functional.jacobian(two, (x, y), **options))
    for options in ({}, {"vectorize": True},
                    {"vectorize": True, "outer_jacobian_strategy": "forward-mode"}):  # fmt: skip
        found.append(functional.hessian(lambda x: t.tanh(x).prod(), x, **options))
    found.append(functional.vhp(lambda x: (x**3).sum(), x, y))
    found.append(functional.hvp(lambda x: (x**3).sum(), x, y))
    found.append(functional.jvp(two, (x, y), (y, x)))
    found.append(functional.vjp(two, (x, y), (y, y.sum())))
    return [
        *found,
        failure(
            lambda: functional.jacobian(two, (x, y), strategy="forward-mode"), "vectorize=True"
        ),
        failure(lambda: functional.jacobian(two, (x, y), strict=True, vectorize=True), "strict"),
        failure(lambda: functional.jacobian(two, (x, y), strategy="sideways"), "strategy"),
        failure(lambda: functional.jacobian(lambda x: t.ones(2), x, strict=True)),
        failure(lambda: functional.jacobian(lambda x: 5, x), "Tensor"),
    ]
