"""The other half of `nasty.py`: hooks, graphs that live on, options, layers and results."""

from __future__ import annotations

import copy
import types
from typing import Any

import numpy as np
from nasty import PROGRAMS, STEPS, Wrap, all_of, data, fill, mlp, program, versions

__all__ = ["PROGRAMS"]


@program
def gradient_penalty(lib: Any, wrap: Wrap) -> list[Any]:
    model = mlp(lib)
    optimizer = lib.optim.Adam(model.parameters(), lr=0.05)

    def step(x: Any) -> Any:
        x = x.detach().requires_grad_()
        optimizer.zero_grad()
        out = model(x).sum()
        (g,) = lib.autograd.grad(out, x, create_graph=True)
        loss = out.square() * 0.01 + (g.norm() - 1).square()
        loss.backward()
        optimizer.step()
        return loss.detach()

    step, kept = wrap(step), []
    for i in range(STEPS):
        kept.append(step(data(lib, i)))
    return [*kept, *all_of(model)]


@program
def a_function_of_its_own(lib: Any, wrap: Wrap) -> list[Any]:
    class Double(lib.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return g * 2 + x * 0.01

    model = mlp(lib)
    optimizer = lib.optim.SGD(model.parameters(), lr=0.1)

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (Double.apply(model(x)) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    step, kept = wrap(step), []
    for i in range(STEPS):
        kept.append(step(data(lib, i)))
    return [*kept, *all_of(model)]


@program
def hooks_of_many_kinds(lib: Any, wrap: Wrap) -> list[Any]:
    model, seen = mlp(lib), []
    optimizer = lib.optim.SGD(model.parameters(), lr=0.1)
    model[0].weight.register_hook(lambda g: g * 0.5)
    model[2].bias.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", p.grad * 2))
    model[1].register_forward_hook(lambda m, args, out: out * 1.5)
    model[2].register_full_backward_hook(lambda m, gi, go: seen.append(go[0].shape))
    factor = [1.0]

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        hidden = model[:2](x)
        hidden.register_hook(lambda g: g * factor[0])
        loss = (model[2](hidden) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    step, kept = wrap(step), []
    for i in range(STEPS):
        if i == 7:
            factor[0] = 0.5
        kept.append(step(data(lib, i)))
    return [*kept, *all_of(model), len(seen)]


@program
def a_hook_that_keeps_gradients(lib: Any, wrap: Wrap) -> list[Any]:
    model, seen = mlp(lib), []
    optimizer = lib.optim.SGD(model.parameters(), lr=0.1)
    handle = model[0].weight.register_hook(lambda g: seen.append(g))

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    step, kept = wrap(step), []
    for i in range(STEPS):
        if i == 9:
            handle.remove()
        kept.append(step(data(lib, i)))
    return [*kept, *seen, *all_of(model)]


@program
def retained_gradients(lib: Any, wrap: Wrap) -> list[Any]:
    model = mlp(lib)

    def step(x: Any) -> Any:
        hidden = model[0](x)
        hidden.retain_grad()
        model[2](hidden.relu()).sum().backward(retain_graph=True)
        return hidden.grad * 2

    step, kept = wrap(step), []
    for i in range(STEPS):
        kept.append(step(data(lib, i)))
    return [*kept, *all_of(model)]


@program
def two_passes_of_one_graph(lib: Any, wrap: Wrap) -> list[Any]:
    model = mlp(lib)

    def step(x: Any) -> Any:
        out = model(x)
        out.sum().backward(retain_graph=True)
        out.square().sum().backward()
        return out.detach()

    step, kept = wrap(step), []
    for i in range(STEPS):
        kept.append(step(data(lib, i)))
    return [*kept, *all_of(model)]


@program
def a_rate_that_is_a_local(lib: Any, wrap: Wrap) -> list[Any]:
    w = lib.ones(5, requires_grad=True)

    def step(x: Any, lr: float, k: int) -> Any:
        w.grad = None
        loss = (x * w).pow(2).mean() * (k + 1)
        loss.backward()
        with lib.no_grad():
            w.sub_(w.grad, alpha=lr)
            w.mul_(1 - lr * 0.1)
        return loss * lr

    step, kept = wrap(step), []
    for i in range(STEPS):
        kept.append(step(data(lib, i), 0.1 / (i + 1), i // 4))
    return [*kept, w]


@program
def made_of_python_values(lib: Any, wrap: Wrap) -> list[Any]:
    weights = [1.0, 2.0, 3.0, 4.0, 5.0]

    def step(x: Any) -> Any:
        mask = lib.tensor([True, False, True, True, False])
        y = x * lib.tensor(weights) + lib.tensor(np.arange(5, dtype="float32"))
        return lib.where(mask, y, lib.tensor(0.0))

    step, kept = wrap(step), []
    for i in range(STEPS):
        if i == 6:
            weights[2] = -1.0
        kept.append(step(data(lib, i)))
    return kept


@program
def options_of_the_optimizer_change(lib: Any, wrap: Wrap) -> list[Any]:
    model = mlp(lib)
    optimizer = lib.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    step, kept = wrap(step), []
    for i in range(STEPS):
        group = optimizer.param_groups[0]
        group["lr"] = 0.1 if i < 9 else 0.0
        group["weight_decay"] = 0.01 if i in (4, 5, 6, 7) else 0.0
        group["momentum"] = 0.5 if i > 6 else 0.9
        group["nesterov"] = i > 7
        kept.append(step(data(lib, i)))
    return [*kept, *all_of(model)]


@program
def state_loaded_midway(lib: Any, wrap: Wrap) -> list[Any]:
    model = mlp(lib)
    optimizer = lib.optim.Adam(model.parameters(), lr=0.05)
    saved: Any = None

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    step, kept = wrap(step), []
    for i in range(STEPS):
        if i == 4:
            saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        if i == 8:
            model.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
        kept.append(step(data(lib, i)))
    return [*kept, *all_of(model)]


@program
def layers_come_and_go(lib: Any, wrap: Wrap) -> list[Any]:
    model = mlp(lib)
    optimizer = lib.optim.SGD(model.parameters(), lr=0.1)

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    step, kept = wrap(step), []
    for i in range(STEPS):
        if i == 4:
            model.append(lib.nn.Sigmoid())
        if i == 6:
            model[1] = lib.nn.ReLU()
        if i == 9:
            extra = lib.nn.Linear(5, 5)
            fill(lib, extra)
            model.append(extra)
            optimizer.add_param_group({"params": extra.parameters(), "lr": 0.01})
        kept.append(step(data(lib, i)))
    return [*kept, *all_of(model)]


@program
def attributes_of_an_object(lib: Any, wrap: Wrap) -> list[Any]:
    state = types.SimpleNamespace(scale=1.0, buffer=lib.zeros(5), calls=0)

    def step(x: Any) -> Any:
        state.buffer = state.buffer * 0.9 + x.mean(0)
        state.calls += 1
        return state.buffer * state.scale + state.calls

    step, kept = wrap(step), []
    for i in range(STEPS):
        state.scale = 2.0 if i > 6 else 1.0
        kept.append(step(data(lib, i)))
    return [*kept, state.buffer, state.calls]


@program
def results_that_are_arguments(lib: Any, wrap: Wrap) -> list[Any]:
    w, kept = lib.ones(5), []

    def step(x: Any, y: Any) -> Any:
        y = y.mul_(0.5)
        return x, y, x + y, x.view(-1)[:3], w

    step = wrap(step)
    for i in range(STEPS):
        x, y = data(lib, i), data(lib, i + 40)
        a, b, c, d, e = step(x, y)
        d.fill_(float(i))
        kept += [a, b, c, d, a is x, b is y, e is w]
    return kept


@program
def a_closure_of_lbfgs(lib: Any, wrap: Wrap) -> list[Any]:
    w = lib.ones(5, requires_grad=True)
    optimizer, kept = lib.optim.LBFGS([w], lr=0.3, max_iter=3), []

    def loss_of(x: Any) -> Any:
        return ((x @ w) - 1).square().mean()

    loss_of = wrap(loss_of)
    for i in range(4):
        x = data(lib, i)

        def closure(x: Any = x) -> Any:
            optimizer.zero_grad()
            loss = loss_of(x)
            loss.backward()
            return loss

        kept.append(optimizer.step(closure))
    return [*kept, w]


@program
def slices_of_changing_size(lib: Any, wrap: Wrap) -> list[Any]:
    rows, kept = data(lib, 3, 24), []

    def step(x: Any, n: int) -> Any:
        return x[:n].mean(0) + x[n:].sum(0) * n

    step = wrap(step)
    for i in range(2 * STEPS):
        kept.append(step(rows, 1 + i % 5))
    return kept


@program
def gradients_that_live_on(lib: Any, wrap: Wrap) -> list[Any]:
    model, kept = mlp(lib), []
    optimizer = lib.optim.SGD(model.parameters(), lr=0.1)

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()

    step = wrap(step)
    for i in range(STEPS):
        step(data(lib, i))
        if i % 3 == 0:
            kept += [p.grad for p in model.parameters()]
    return [*kept, *all_of(model)]


@program
def weights_normed_and_cloned(lib: Any, wrap: Wrap) -> list[Any]:
    w = lib.ones(4, 5, requires_grad=True)
    kept = []

    def step(x: Any) -> Any:
        w.grad = None
        loss = (w * x).cos().sum()
        loss.backward()
        w.data.add_(w.grad, alpha=-0.1)
        w.data.div_(w.data.norm())
        return w.clone(), loss

    step = wrap(step)
    for i in range(STEPS):
        kept += step(data(lib, i))
    return [*kept, w, versions(w)]
